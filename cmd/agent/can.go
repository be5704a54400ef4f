package main

import "github.com/spf13/cobra"

func canCommand() *cobra.Command { return &cobra.Command{Use: "can"} }
