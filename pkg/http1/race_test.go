//go:build race

package http1

// raceDetector says that allocations and memory cannot be measured: the detector drops pooled buffers at random.
const raceDetector = true
