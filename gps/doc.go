// Package gps turns what a satellite receiver says into fixes: NMEA 0183 from a serial line, a pseudo-terminal, a TCP
// connection, a pipe or a log, or the reports of gpsd go in, one Fix for each epoch comes out, stamped with CLOCK_BOOTTIME
// of its first byte, and a Fix becomes samples. On the way a Judge marks outliers, a Motion thins, and a Privacy takes
// out what is not to leave; docs/GPS.md tells how. Nonsense on the line never becomes a fix; no fix is a state of its own and never latitude 0, longitude 0.
//
// The package knows nothing of configuration files, of the pipeline or of what is done with a fix. It does not set
// the clock: it reports what the receiver claims.
//
// Which sentence ends an epoch is learned, as gpsd does it: when the time in a sentence differs from the one before,
// the sentence that carried the old time was the last of its epoch, and ends every epoch from then on.
package gps
