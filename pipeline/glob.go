package pipeline

// matchGlob says whether name matches pattern: `*` is any run of characters, dots included, `?` is one byte, and all
// else is itself. Linear in practice: only the last star is ever tried again.
func matchGlob(pattern, name string) bool {
	p, n := 0, 0
	star, mark := -1, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, n
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == name[n]):
			p++
			n++
		case star >= 0:
			mark++
			p, n = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// globDistance is the least number of characters to insert, delete or replace in name until it matches pattern.
func globDistance(pattern, name string) int {
	row := make([]int, len(name)+1) // row[n]: distance between the pattern so far and name[:n]
	for n := range row {
		row[n] = n
	}
	for p := range len(pattern) {
		diagonal := row[0]
		if pattern[p] != '*' {
			row[0]++
		}
		for n := 1; n <= len(name); n++ {
			above := row[n]
			switch {
			case pattern[p] == '*':
				row[n] = min(above, row[n-1])
			case pattern[p] == '?' || pattern[p] == name[n-1]:
				row[n] = min(diagonal, above+1, row[n-1]+1)
			default:
				row[n] = 1 + min(diagonal, above, row[n-1])
			}
			diagonal = above
		}
	}
	return row[len(name)]
}

// nearest is the name that the pattern would match with the fewest changes; the first of equals.
func nearest(pattern string, names []string) string {
	best, found := -1, ""
	for _, name := range names {
		if d := globDistance(pattern, name); best < 0 || d < best {
			best, found = d, name
		}
	}
	return found
}
