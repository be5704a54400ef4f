package main

import (
	"regexp"
	"strings"
)

// keyComment is what the example says of a key.
type keyComment struct {
	text  string // in one line; empty: nothing
	value string // of a scalar, without quotes; empty: none
}

var (
	commentedOut = regexp.MustCompile(`^ *(?:# +)+(?:- |[a-z0-9_]+:(?: |$))`)
	exampleKey   = regexp.MustCompile(`^( *(?:- )*)([a-z0-9_]+):(?: +(.*))?$`)
)

// exampleComments reads what stands beside or above the keys of the example, also of those that are commented out there,
// by their paths: can.diagnose.obd.codes. Of two entries of a list the first that says something counts.
func exampleComments(text string) map[string]keyComment {
	type level struct {
		column int
		key    string
	}
	var (
		found  = map[string]keyComment{}
		stack  []level
		above  []string // lines of comment above the next key
		latest string   // path of the latest key
		column = -1     // where it stands, if there is a comment beside it
	)
	for line := range strings.Lines(text) {
		line, isComment := uncomment(strings.TrimRight(line, " \n"), column)
		if line == "" {
			above, column = nil, -1
			continue
		}
		if isComment {
			words := strings.TrimSpace(strings.TrimLeft(line, " #"))
			if !goesOn(line, column) {
				above = append(above, words)
			} else if c, ok := found[latest]; ok {
				c.text += " " + words
				found[latest] = c
			}
			continue
		}
		line, comment := splitComment(line)
		m := exampleKey.FindStringSubmatch(line)
		if m == nil {
			above, column = nil, -1
			continue
		}
		for len(stack) > 0 && stack[len(stack)-1].column >= len(m[1]) {
			stack = stack[:len(stack)-1]
		}
		stack = append(stack, level{len(m[1]), m[2]})
		keys := make([]string, len(stack))
		for i, l := range stack {
			keys[i] = l.key
		}
		latest, column = strings.Join(keys, "."), len(m[1])
		if comment == "" {
			comment, column = strings.Join(above, " "), -1
		}
		above = nil
		if found[latest].text != "" {
			latest = "" // what goes on there was said already
			continue
		}
		found[latest] = keyComment{comment, strings.Trim(m[3], `"'`)}
	}
	return found
}

// goesOn says whether a line goes on with the comment beside the key in column: it stands further right than a key below
// that one could.
func goesOn(line string, column int) bool {
	return column >= 0 && strings.HasPrefix(strings.TrimLeft(line, " "), "#") && strings.Index(line, "#") > column+4
}

// uncomment gives a key that is commented out its place back, and tells whether a comment is left: prose, or what goes
// on with the comment beside the key in column.
func uncomment(line string, column int) (rest string, isComment bool) {
	for strings.HasPrefix(strings.TrimLeft(line, " "), "#") {
		inner := strings.Replace(line, "# ", "", 1)
		if goesOn(line, column) || !commentedOut.MatchString(line) && !goesOn(inner, column) {
			return line, true
		}
		line = inner
	}
	return line, false
}

// splitComment cuts the comment off a line of YAML.
func splitComment(line string) (rest, comment string) {
	quote := rune(0)
	for i, r := range line {
		switch {
		case quote != 0:
			if r == quote {
				quote = 0
			}
		case r == '"' || r == '\'':
			quote = r
		case r == '#' && i > 0 && line[i-1] == ' ':
			return strings.TrimRight(line[:i], " "), strings.TrimSpace(line[i+1:])
		}
	}
	return line, ""
}
