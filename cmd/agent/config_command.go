package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/examples"
	"github.com/waybill-telematics/waybill/internal/cli"
)

func configCommand() *cobra.Command {
	return cli.Group("config", "What can be configured: an example, a schema for editors, a reference",
		&cobra.Command{
			Use:     "example",
			Short:   "Print a configuration that shows every key, with its unit and default",
			Example: "  waybill-agent config example > agent.yaml",
			Args:    cli.NoArguments,
			RunE: func(cmd *cobra.Command, _ []string) error {
				_, err := io.WriteString(cmd.OutOrStdout(), examples.Agent)
				return err
			},
		},
		&cobra.Command{
			Use:   "schema",
			Short: "Print the JSON schema of configuration files, for editors",
			Long: `Prints the JSON schema (draft 2020-12) of configuration files and of their fragments in conf.d. Editors complete
keys with it and mark wrong ones. What it accepts may still be wrong: bounds and what belongs together are for check.`,
			Example: "  waybill-agent config schema > agent.schema.json\n" +
				"  and as the first line of agent.yaml: # yaml-language-server: $schema=agent.schema.json",
			Args: cli.NoArguments,
			RunE: func(cmd *cobra.Command, _ []string) error {
				encoder := json.NewEncoder(cmd.OutOrStdout())
				encoder.SetIndent("", "  ")
				encoder.SetEscapeHTML(false)
				return encoder.Encode(configSchema(exampleComments(examples.Agent)))
			},
		},
		&cobra.Command{
			Use:   "reference",
			Short: "Print every key with its type and meaning as Markdown",
			Args:  cli.NoArguments,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return withOutput(cmd, func(out *bufio.Writer) error {
					writeReference(out, exampleComments(examples.Agent))
					return nil
				})
			},
		})
}

// writeReference writes a table for each section.
func writeReference(out io.Writer, comments map[string]keyComment) {
	t := reflect.TypeOf(config{})
	for i := range t.NumField() {
		field := t.Field(i)
		key := field.Tag.Get("yaml")
		fmt.Fprintf(out, "\n### %s\n\n", key)
		if text := comments[key].text; text != "" && len(keysOf(field.Type)) > 0 {
			fmt.Fprintf(out, "%s\n\n", text)
		}
		fmt.Fprint(out, "| key | value | |\n|---|---|---|\n")
		writeRows(out, field.Type, field.Tag, key, comments)
	}
}

// writeRows writes the key itself, if it has a value, and those below it.
func writeRows(out io.Writer, t reflect.Type, tag reflect.StructTag, path string, comments map[string]keyComment) {
	fields := keysOf(t)
	if len(fields) == 0 || strings.Contains(path, ".") {
		fmt.Fprintf(out, "| `%s` | %s | %s |\n", path, valueWords(t, tag, comments[path].value),
			strings.ReplaceAll(comments[path].text, "|", `\|`))
	}
	for _, field := range fields {
		writeRows(out, field.Type, field.Tag, path+"."+field.Tag.Get("yaml"), comments)
	}
}

// keysOf are the fields of a group of keys, or of a list of such groups; nil for a value.
func keysOf(t reflect.Type) (fields []reflect.StructField) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	for i := 0; t.Kind() == reflect.Struct && i < t.NumField(); i++ {
		fields = append(fields, t.Field(i))
	}
	return fields
}

func valueWords(t reflect.Type, tag reflect.StructTag, example string) string {
	words := strings.Fields(tag.Get("enum"))
	switch t.Kind() {
	case reflect.Pointer:
		return valueWords(t.Elem(), tag, example)
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64, reflect.Uint32:
		return "whole number"
	case reflect.Float64:
		return "number"
	case reflect.Slice:
		if len(keysOf(t)) > 0 {
			return "list"
		}
		return "list of " + valueWords(t.Elem(), tag, "")
	case reflect.Map:
		return "by " + strings.Join(strings.Fields(tag.Get("keys")), ", ")
	case reflect.Struct:
		return "group"
	}
	if kind := textKind(words, example); kind != "choice" {
		return kind
	}
	return "`" + strings.Join(words, "`, `") + "`"
}
