package trust

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"path"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Target looks for a target by its name, in the top-level role and then in the roles it delegates to, in the order in
// which they are named (pre-order, depth first), as far as the name is theirs. Refresh comes first.
func (c *Client) Target(ctx context.Context, name string) (*Target, error) {
	if c.set == nil {
		return nil, c.wrap(name, refuse(NotFound, "the metadata was not refreshed"))
	}
	found, role, err := c.search(ctx, name)
	if err != nil {
		return nil, c.wrap(role, err)
	}
	t, err := newTarget(c.o.Name+"/"+role, name, found, c.set.Root.Signed.ConsistentSnapshot)
	return t, c.wrap(name, err)
}

type visit struct{ role, delegator string }

// search returns the role that has the target, or the one that could not be loaded.
func (c *Client) search(ctx context.Context, name string) (*metadata.TargetFiles, string, error) {
	visited := map[string]bool{}
	for stack := []visit{{metadata.TARGETS, metadata.ROOT}}; len(stack) > 0; {
		next := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if visited[next.role] {
			continue
		}
		if len(visited) == c.o.Limits.Visited {
			return nil, name, refuse(Delegation, "not found in the first %d roles", len(visited))
		}
		visited[next.role] = true
		if next.role != metadata.TARGETS {
			// Verified in each search anew, from the store: two roles may delegate to a third by other keys, and
			// what one of them vouches for does not count for the other.
			if err := c.loadTargets(ctx, c.set, next.role, next.delegator); err != nil {
				return nil, next.role, err
			}
		}
		signed := &c.set.Targets[next.role].Signed
		if t := signed.Targets[name]; t != nil {
			return t, next.role, nil
		}
		if signed.Delegations == nil {
			continue
		}
		children, terminating := delegated(signed.Delegations, name)
		if terminating {
			stack = stack[:0]
		}
		for i := len(children) - 1; i >= 0; i-- {
			stack = append(stack, visit{children[i], next.role})
		}
	}
	return nil, name, refuse(NotFound, "no role vouches for it")
}

// delegated are the roles that may speak of a name, up to the first that ends the search.
func delegated(d *metadata.Delegations, name string) (roles []string, terminating bool) {
	if d.SuccinctRoles != nil && len(d.Roles) == 0 {
		for _, r := range d.SuccinctRoles.GetRolesForTarget(name) {
			roles = append(roles, r.Name)
		}
		return roles, true
	}
	for i := range d.Roles {
		if r := &d.Roles[i]; speaksOf(r, name) {
			if roles = append(roles, r.Name); r.Terminating {
				return roles, true
			}
		}
	}
	return roles, false
}

// speaksOf matches a name by paths (a "*" does not match a "/") or by the prefixes of its hash, which the specification
// has in hexadecimal and go-tuf in base64.
func speaksOf(r *metadata.DelegatedRole, name string) bool {
	parts := strings.Split(name, "/")
	for _, pattern := range r.Paths {
		if matches(strings.Split(pattern, "/"), parts) {
			return true
		}
	}
	sum := sha256.Sum256([]byte(name))
	digest := hex.EncodeToString(sum[:])
	for _, prefix := range r.PathHashPrefixes {
		if strings.HasPrefix(digest, strings.ToLower(prefix)) {
			return true
		}
	}
	return false
}

func matches(patterns, parts []string) bool {
	if len(patterns) != len(parts) {
		return false
	}
	for i, pattern := range patterns {
		if ok, err := path.Match(pattern, parts[i]); err != nil || !ok {
			return false
		}
	}
	return true
}
