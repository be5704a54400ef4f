package httpin

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"
)

// problem is an answer that confirms nothing, as application/problem+json (RFC 9457).
type problem struct {
	status int
	detail string
	after  time.Duration // Retry-After; 0: none
}

func (p *problem) Error() string { return p.detail }

func refuse(status int, format string, args ...any) *problem {
	return &problem{status: status, detail: fmt.Sprintf(format, args...)}
}

// busy is for what may be sent again soon.
func busy(status int, after time.Duration, format string, args ...any) *problem {
	return &problem{status: status, detail: fmt.Sprintf(format, args...), after: max(after, time.Second)}
}

// write sends the problem. "type" is left out: it then means about:blank, and title is the status's own (§4.2.1).
func (p *problem) write(w http.ResponseWriter) {
	body, err := json.Marshal(struct {
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{http.StatusText(p.status), p.status, p.detail})
	if err != nil { // two strings and a number always encode
		body = []byte("{}")
	}
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	if p.after > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(p.after.Seconds()))))
	}
	switch p.status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", "Bearer")
	case http.StatusMethodNotAllowed:
		h.Set("Allow", http.MethodPost)
	}
	w.WriteHeader(p.status)
	_, _ = w.Write(append(body, '\n')) // who does not hear it sends again
}
