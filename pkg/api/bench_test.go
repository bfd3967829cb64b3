package api

import "testing"

func BenchmarkDecode(b *testing.B) {
	b.SetBytes(int64(len(route)))
	for b.Loop() {
		if _, err := Decode("f", []byte(route)); err != nil {
			b.Fatal(err)
		}
	}
}
