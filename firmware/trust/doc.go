// Package trust decides which software a vehicle may install. A Client follows one TUF repository (specification
// 1.0.3x, §5: client workflow); Vehicle puts two of them together as Uptane's full verification does, director and image
// repository, and answers with Targets: name, length and hashes that both vouch for. Signatures, thresholds and the
// order of roles are go-tuf's `trustedmetadata`; fetching, storing, limits, delegations and time are ours.
//
// It knows nothing of slots, of campaigns or of how an image is carried: it verifies what others bring. docs/OTA.md
// tells which attack meets what.
package trust
