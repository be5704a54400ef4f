package delivery

import (
	"fmt"
	"strconv"
	"strings"
)

// contentRange is what an answer says that it brings (RFC 9110, §14.4).
type contentRange struct {
	first, last int64 // bytes, both included; -1: none of it, "bytes */LENGTH"
	length      int64 // of the whole file; -1: the server does not know
}

// parseContentRange takes the one form that there is, with no number beyond what int64 holds.
func parseContentRange(s string) (r contentRange, err error) {
	bad := func() (contentRange, error) {
		return contentRange{}, fmt.Errorf("Content-Range %.80q is not a range of bytes", s)
	}
	unit, rest, ok := strings.Cut(s, " ")
	if !ok || !strings.EqualFold(unit, "bytes") {
		return bad()
	}
	span, length, ok := strings.Cut(rest, "/")
	if !ok {
		return bad()
	}
	if r.length = -1; length != "*" {
		if r.length, ok = decimal(length); !ok {
			return bad()
		}
	}
	if span == "*" {
		if r.length < 0 {
			return bad()
		}
		r.first, r.last = -1, -1
		return r, nil
	}
	first, last, ok := strings.Cut(span, "-")
	if !ok {
		return bad()
	}
	var okFirst, okLast bool
	r.first, okFirst = decimal(first)
	r.last, okLast = decimal(last)
	if !okFirst || !okLast || r.last < r.first || r.length >= 0 && r.last >= r.length {
		return bad()
	}
	return r, nil
}

// decimal takes digits only: no sign, no space.
func decimal(s string) (int64, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}
