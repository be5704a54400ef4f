package main

import "github.com/spf13/cobra"

func batchCommand() *cobra.Command { return &cobra.Command{Use: "batch"} }
