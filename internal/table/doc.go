// Package table is a map for the many that hold little. It is a plain value, with no lock of
// its own.
package table
