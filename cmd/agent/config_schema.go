package main

import (
	"reflect"
	"strconv"
	"strings"
	"time"
)

// schemaDialect is the JSON schema's version that editors know best.
const schemaDialect = "https://json-schema.org/draft/2020-12/schema"

// What a duration and a size look like (time.ParseDuration; checker.size). Bounds are left to check.
const (
	durationPattern = `^[+]?(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h))+$|^0$`
	sizePattern     = `^[0-9.]+ *(KiB|MiB|GiB|TiB|kB|MB|GB|TB|B)?$`
)

// schema is a JSON schema, or a part of one.
type schema = map[string]any

// configSchema is the schema of the configuration: its keys and types are those of the Go types, descriptions are those of
// the example, choices those of the tags enum (of a value) and keys (of a map). Nothing is required, since a file and
// its fragments are checked together only by the agent.
func configSchema(comments map[string]keyComment) schema {
	s := typeSchema(reflect.TypeOf(config{}), "", "", comments)
	s["$schema"] = schemaDialect
	s["title"] = "Configuration of waybill-agent"
	return s
}

// typeSchema describes what a value of a type may be. path is that of its key in the example.
func typeSchema(t reflect.Type, tag reflect.StructTag, path string, comments map[string]keyComment) schema {
	switch {
	case t == reflect.TypeOf(recordConfig{}):
		return schema{"type": []string{"string", "number", "boolean", "array", "null"},
			"items": schema{"type": []string{"string", "number", "boolean"}}}
	case t.Kind() == reflect.Pointer:
		return typeSchema(t.Elem(), tag, path, comments)
	}
	switch t.Kind() {
	case reflect.Bool:
		return schema{"type": "boolean"}
	case reflect.Int, reflect.Int64:
		return schema{"type": "integer"}
	case reflect.Uint32:
		return schema{"type": "integer", "minimum": 0}
	case reflect.Float64:
		return schema{"type": "number"}
	case reflect.String:
		return textSchema(tag, comments[path].value)
	case reflect.Slice:
		return schema{"type": []string{"array", "null"}, "items": typeSchema(t.Elem(), tag, path, comments)}
	case reflect.Map:
		s := schema{"type": []string{"object", "null"}}
		names := strings.Fields(tag.Get("keys"))
		example := ""
		for _, name := range names {
			example += comments[path+"."+name].value
		}
		s["additionalProperties"] = textSchema(tag, example)
		if len(names) > 0 {
			s["propertyNames"] = schema{"enum": names}
		}
		return s
	}
	properties := schema{}
	for i := range t.NumField() {
		field := t.Field(i)
		key := field.Tag.Get("yaml")
		inner := strings.TrimPrefix(path+"."+key, ".")
		p := typeSchema(field.Type, field.Tag, inner, comments)
		if text := comments[inner].text; text != "" {
			p["description"] = text
		}
		properties[key] = p
	}
	return schema{"type": []string{"object", "null"}, "properties": properties, "additionalProperties": false}
}

// textSchema describes what YAML calls a scalar and the agent reads as text. example says what kind of text it is.
func textSchema(tag reflect.StructTag, example string) schema {
	words := strings.Fields(tag.Get("enum"))
	switch textKind(words, example) {
	case "choice":
		var choices []any
		for _, word := range words {
			choices = append(choices, word)
			if number, err := strconv.ParseFloat(word, 64); err == nil {
				choices = append(choices, number) // without quotes
			}
		}
		return schema{"enum": choices}
	case "duration":
		return schema{"type": []string{"string", "integer"}, "pattern": durationPattern, "minimum": 0, "maximum": 0}
	case "size":
		return schema{"type": []string{"string", "number"}, "pattern": sizePattern, "minimum": 0}
	}
	return schema{"type": []string{"string", "number", "boolean"}} // user: 7 and user: true are text to the agent
}

// textKind is choice, duration, size or text.
func textKind(words []string, example string) string {
	if len(words) > 0 {
		return "choice"
	}
	if _, err := time.ParseDuration(example); err == nil && example != "0" {
		return "duration"
	}
	if number := strings.TrimRight(example, "kKMGiB"); number != "" && number != example {
		if _, err := strconv.ParseFloat(number, 64); err == nil {
			return "size"
		}
	}
	return "text"
}
