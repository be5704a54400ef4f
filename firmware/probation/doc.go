// Package probation judges a new version of the agent while it runs on trial, by what the version before it did on the
// same vehicle: whether it reads what was read, keeps what it reads, and is acknowledged where the one before was.
//
// Three things are told apart. What works counts towards the pass. What works no more although the outside is as it was counts
// towards the failure: frames that the kernel counts and nobody reads, a broker that answers a plain connection and not this
// version. What cannot be known, since the car sleeps or stands where there is no link, counts for neither: a garage is no fault of the
// software. Only what is never seen to work in a long time awake fails in the end.
//
// Times are times awake, added up over restarts: ten short trips are judged as one long one is.
package probation
