// Reads the compose file of the working directory with its .env, as docker compose does, and prints it resolved, as
// JSON: `docker compose config` for machines without docker. (The module's own command leaves the environment out.)
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	if len(os.Args) < 2 || os.Args[1] == "--version" {
		fmt.Println("compose-config: compose-config docker-compose.yml")
		return
	}
	options, err := cli.NewProjectOptions(
		os.Args[1:], cli.WithOsEnv, cli.WithEnvFiles(), cli.WithDotEnv, cli.WithProfiles([]string{"*"}))
	if err == nil {
		project, failed := options.LoadProject(context.Background())
		if err = failed; err == nil {
			var resolved []byte
			if resolved, err = project.MarshalJSON(); err == nil {
				fmt.Println(string(resolved))
			}
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
