package main

import "github.com/spf13/cobra"

func queueCommand() *cobra.Command { return &cobra.Command{Use: "queue"} }
