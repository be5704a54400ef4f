package main

import "github.com/spf13/cobra"

func gpsCommand() *cobra.Command { return &cobra.Command{Use: "gps"} }
