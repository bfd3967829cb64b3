// Command helm is the real helm, built here so that the tests need none installed.
package main

import (
	"errors"
	"log/slog"
	"os"

	"helm.sh/helm/v4/pkg/cmd"
)

func main() {
	root, err := cmd.NewRootCmd(os.Stdout, os.Args[1:], cmd.SetupLogging)
	if err == nil {
		err = root.Execute()
	}
	if err != nil {
		slog.Error(err.Error())
		code := 1
		if failed := (cmd.CommandError{}); errors.As(err, &failed) {
			code = failed.ExitCode
		}
		os.Exit(code)
	}
}
