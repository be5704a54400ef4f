// Package browser tries pages in a real browser; its tests carry the build tag system.
package browser
