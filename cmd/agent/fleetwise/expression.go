package fleetwise

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Node is a part of a condition.
type Node struct {
	Kind   kind
	Text   string // operator; name of the signal; what else it is
	Number float64
	Kids   []*Node // of an operator: one for !, else two
}

type kind int

const (
	operator kind = iota
	signal
	number
	other
)

// maxDepth bounds how deeply conditions are nested.
const maxDepth = 64

// Bounds are a condition that a rule of ours tells: above or below, or both, of one signal.
type Bounds struct {
	Signal       string
	Above, Below *float64
	Inclusive    bool // FleetWise's has the bound itself too
}

// bounds reads a comparison of a signal with a number, or two of one signal joined by or.
func (n *Node) bounds() (Bounds, bool) {
	if n == nil || n.Kind != operator || len(n.Kids) != 2 {
		return Bounds{}, false
	}
	a, b := n.Kids[0], n.Kids[1]
	if n.Text == "||" {
		left, ok := a.bounds()
		right, also := b.bounds()
		if !ok || !also || left.Signal != right.Signal {
			return Bounds{}, false
		}
		left.Inclusive = left.Inclusive || right.Inclusive
		switch {
		case left.Above == nil && right.Below == nil:
			left.Above = right.Above
		case left.Below == nil && right.Above == nil:
			left.Below = right.Below
		default:
			return Bounds{}, false
		}
		return left, true
	}
	turned := map[string]string{"<": ">", ">": "<", "<=": ">=", ">=": "<="}
	word := n.Text
	if a.Kind == number && b.Kind == signal {
		a, b, word = b, a, turned[word]
	}
	if a.Kind != signal || b.Kind != number || turned[word] == "" || math.IsNaN(b.Number) || math.IsInf(b.Number, 0) {
		return Bounds{}, false
	}
	found := Bounds{Signal: a.Text, Inclusive: len(word) == 2}
	if word[0] == '>' {
		found.Above = &b.Number
	} else {
		found.Below = &b.Number
	}
	return found, true
}

// parseExpression reads a logical expression of a campaign, as far as it is operators, numbers and signals; a function
// becomes a node of its own.
func parseExpression(text string) (*Node, error) {
	p := &expression{rest: text}
	n, err := p.binary(0, 0)
	if err == nil && p.peek() != "" {
		err = fmt.Errorf("what is %.20q", p.rest)
	}
	return n, err
}

type expression struct{ rest string }

// levels are the binary operators, those that bind least first.
var levels = [][]string{{"||"}, {"&&"}, {"==", "!="}, {"<=", ">=", "<", ">"}, {"+", "-"}, {"*", "/"}}

func (p *expression) peek() string {
	p.rest = strings.TrimLeft(p.rest, " \t\r\n")
	return p.rest
}

func (p *expression) take(word string) bool {
	rest, ok := strings.CutPrefix(p.peek(), word)
	if ok {
		p.rest = rest
	}
	return ok
}

func (p *expression) binary(level, depth int) (*Node, error) {
	if level == len(levels) {
		return p.unary(depth)
	}
	left, err := p.binary(level+1, depth)
	for err == nil {
		word := ""
		for _, w := range levels[level] {
			if p.take(w) {
				word = w
				break
			}
		}
		if word == "" {
			return left, nil
		}
		var right *Node
		right, err = p.binary(level+1, depth)
		left = &Node{Kind: operator, Text: word, Kids: []*Node{left, right}}
	}
	return nil, err
}

func (p *expression) unary(depth int) (*Node, error) {
	if depth++; depth > maxDepth {
		return nil, fmt.Errorf("it is nested too deeply")
	}
	const variable = "$variable.`"
	switch {
	case p.take("("):
		n, err := p.binary(0, depth)
		if err == nil && !p.take(")") {
			err = fmt.Errorf("a bracket is open")
		}
		return n, err
	case strings.HasPrefix(p.peek(), "!") && !strings.HasPrefix(p.rest, "!="):
		p.take("!")
		n, err := p.unary(depth)
		return &Node{Kind: operator, Text: "!", Kids: []*Node{n}}, err
	case p.take(variable):
		name, rest, ok := strings.Cut(p.rest, "`")
		if !ok {
			return nil, fmt.Errorf("a name has no end")
		}
		p.rest = rest
		return &Node{Kind: signal, Text: name}, nil
	}
	end := strings.IndexFunc(p.peek(), func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '_' || r == '.')
	})
	sign := 0
	if strings.HasPrefix(p.rest, "-") {
		sign = 1
		if end = strings.IndexFunc(p.rest[1:], func(r rune) bool { return !strings.ContainsRune("0123456789.eE", r) }); end >= 0 {
			end++
		}
	}
	if end < 0 {
		end = len(p.rest)
	}
	word := p.rest[:end]
	if end == sign {
		return nil, fmt.Errorf("what is %.20q", p.rest)
	}
	p.rest = p.rest[end:]
	if v, err := strconv.ParseFloat(word, 64); err == nil {
		return &Node{Kind: number, Number: v}, nil
	}
	if !p.take("(") {
		return &Node{Kind: other, Text: word}, nil
	}
	open := 1 // a function: what is in its brackets is not looked at
	for i, r := range p.rest {
		switch r {
		case '(':
			open++
		case ')':
			open--
		}
		if open == 0 {
			p.rest = p.rest[i+1:]
			return &Node{Kind: other, Text: word + "()"}, nil
		}
	}
	return nil, fmt.Errorf("a bracket of %s is open", word)
}
