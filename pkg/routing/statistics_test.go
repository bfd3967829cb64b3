package routing

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

func byRate(factor float64) *snapshot.Outliers {
	return &snapshot.Outliers{
		EjectionMs: 60_000, MaxEjectionMs: 60_000, MaxEjectedPercent: 100, IntervalMs: 10_000,
		SuccessRate: &snapshot.Outliers_SuccessRate{MinInstances: 5, MinRequests: 100, FactorThousandths: uint32(factor * 1000)},
	}
}

func byLatency(factor float64) *snapshot.Outliers {
	return &snapshot.Outliers{
		EjectionMs: 60_000, MaxEjectionMs: 60_000, MaxEjectedPercent: 100, IntervalMs: 10_000,
		Latency: &snapshot.Outliers_Latency{MinInstances: 3, MinRequests: 50, FactorThousandths: uint32(factor * 1000), MinDifferenceMs: 10},
	}
}

// judging feeds instances of a table with attempts without asking which of them Pick would take.
type judging struct {
	table *Table
	d     Decision
}

func newJudging(t testing.TB, policy *snapshot.Outliers, names ...string) *judging {
	j := &judging{table: judged(t, &snapshot.Resilience{Outliers: policy}, names...)}
	j.table.Pick(callOf(random(t)), get("/"), &j.d)
	j.d.Done()
	return j
}

func (j *judging) attempt(name string, failed bool, took time.Duration, now time.Time) {
	for _, i := range j.table.pools[orders].set.Load().instances {
		if i.ID == name {
			j.d.Instance = i
		}
	}
	j.d.Judge(failed, took, now)
}

// attempts are so many, of which some fail, in the interval that begins at a time.
func (j *judging) attempts(name string, all, failed int, took time.Duration, now time.Time) {
	for n := range all {
		j.attempt(name, n < failed, took, now.Add(time.Second))
	}
}

// ends ends the interval that began at a time, and says who is ejected.
func (j *judging) ends(now time.Time) (ejected []string) {
	now = now.Add(11*time.Second + time.Nanosecond)
	j.attempt("a", false, time.Millisecond, now)
	for _, i := range j.table.pools[orders].set.Load().instances {
		if i.standing.isEjected(now.UnixNano()) {
			ejected = append(ejected, i.ID)
		}
	}
	return ejected
}

func TestOutliersByStatistics(t *testing.T) {
	const ms = time.Millisecond
	type of struct {
		name        string
		all, failed int
		took        time.Duration
	}
	for _, tt := range []struct {
		name   string
		policy *snapshot.Outliers
		of     []of
		want   []string
	}{
		// Rates of 1, 1, 1, 1 and 0.5: the mean is 0.9 and the deviation 0.2, so that 0.52 is the bound.
		{"below the bound", byRate(1.9), []of{{"a", 100, 0, ms}, {"b", 100, 0, ms}, {"c", 100, 0, ms}, {"d", 100, 0, ms}, {"e", 100, 50, ms}}, []string{"e"}},
		{"above a wider bound", byRate(2.1), []of{{"a", 100, 0, ms}, {"b", 100, 0, ms}, {"c", 100, 0, ms}, {"d", 100, 0, ms}, {"e", 100, 50, ms}}, nil},
		{"all alike", byRate(1.9), []of{{"a", 100, 50, ms}, {"b", 100, 50, ms}, {"c", 100, 50, ms}, {"d", 100, 50, ms}, {"e", 100, 50, ms}}, nil},
		{"too few requests of the outlier", byRate(1.9), []of{{"a", 100, 0, ms}, {"b", 100, 0, ms}, {"c", 100, 0, ms}, {"d", 100, 0, ms}, {"e", 99, 50, ms}}, nil},
		{"too few instances", byRate(1), []of{{"a", 100, 0, ms}, {"b", 100, 0, ms}, {"c", 100, 0, ms}, {"e", 100, 50, ms}}, nil},
		{"slow", byLatency(3), []of{{"a", 50, 0, 20 * ms}, {"b", 50, 0, 21 * ms}, {"c", 50, 0, 19 * ms}, {"d", 50, 0, 60 * ms}}, nil}, // the median is 20.3: what ends the interval is in it
		{"slower", byLatency(3), []of{{"a", 50, 0, 20 * ms}, {"b", 50, 0, 21 * ms}, {"c", 50, 0, 19 * ms}, {"d", 50, 0, 62 * ms}}, []string{"d"}},
		{"slower by little", byLatency(3), []of{{"a", 50, 0, ms}, {"b", 50, 0, ms}, {"c", 50, 0, ms}, {"d", 50, 0, 10 * ms}}, nil},
		{"slow in few requests", byLatency(3), []of{{"a", 50, 0, ms}, {"b", 50, 0, ms}, {"c", 50, 0, ms}, {"d", 49, 0, time.Second}}, nil},
		{"slow of two", byLatency(3), []of{{"a", 50, 0, ms}, {"d", 50, 0, time.Second}}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j := newJudging(t, tt.policy, "a", "b", "c", "d", "e")
			j.attempt("a", false, ms, start) // the first begins the first interval
			for _, i := range tt.of {
				if i.name == "a" {
					i.all-- // it ends the interval, too
				}
				j.attempts(i.name, i.all, i.failed, i.took, start)
			}
			want(t, "ejected", j.ends(start.Add(-time.Second)), tt.want)
		})
	}
}

// TestSuccessRateIsAsDefined makes intervals at random and compares whom they eject with the definition, written down
// once more: mean minus factor times the population's standard deviation.
func TestSuccessRateIsAsDefined(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 0))
	some := 0
	for round := range 2000 {
		r := &successRate{instances: 1 + dice.IntN(8), requests: uint64(1 + dice.IntN(100)), factor: float64(dice.IntN(3000)) / 1000}
		var of []interval
		var rates []float64
		var names []string
		for n := range dice.IntN(12) {
			all := uint64(1 + dice.IntN(200))
			i := interval{&Instance{ID: fmt.Sprint(n)}, all, dice.Uint64N(all + 1), 0}
			of = append(of, i)
			if all >= r.requests {
				rates, names = append(rates, float64(all-i.failed)/float64(all)), append(names, i.instance.ID)
			}
		}
		var expected []string
		if len(rates) >= r.instances {
			sum, squares := 0.0, 0.0
			for _, rate := range rates {
				sum += rate
			}
			mean := sum / float64(len(rates))
			for _, rate := range rates {
				squares += math.Pow(rate-mean, 2)
			}
			bound := mean - r.factor*math.Sqrt(squares/float64(len(rates)))
			close := false
			for n, rate := range rates {
				close = close || math.Abs(rate-bound) < 1e-9
				if rate < bound {
					expected = append(expected, names[n])
				}
			}
			if close {
				continue // the order of additions decides
			}
		}
		var got []string
		for _, i := range r.outliers(of) {
			got = append(got, i.ID)
		}
		slices.Sort(got)
		slices.Sort(expected)
		if !slices.Equal(got, expected) {
			t.Fatalf("round %d: %v are ejected, want %v", round, got, expected)
		}
		some += len(got)
	}
	if some == 0 {
		t.Error("nobody was an outlier")
	}
}

// TestOutlierAmongMany lets requests go where Pick has them go: an instance that fails four of ten is ejected with the first
// interval and is asked again when its time is over; the others stay.
func TestOutlierAmongMany(t *testing.T) {
	names := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	policy := byRate(1.9)
	table := judged(t, &snapshot.Resilience{Outliers: policy}, names...)
	source := random(t)
	dice := rand.New(source)
	call := callOf(source)
	asked := map[string]map[int]int{}
	const perSecond = 400
	for second := range 100 {
		for n := range perSecond {
			call.Now = start.Add(time.Duration(second)*time.Second + time.Duration(n)*time.Second/perSecond)
			var d Decision
			table.Pick(call, get("/"), &d)
			i := d.Instance.ID
			if asked[i] == nil {
				asked[i] = map[int]int{}
			}
			asked[i][second]++
			d.Judge(i == "h" && second < 30 && dice.IntN(10) < 4, time.Millisecond, call.Now)
			d.Done()
		}
	}
	for second := range 100 {
		h := asked["h"][second]
		if inside := second > 10 && second < 70; inside != (h == 0) && second != 10 && second != 70 {
			t.Errorf("second %d: the outlier is asked %d times", second, h)
		}
		if a := asked["a"][second]; a == 0 {
			t.Errorf("second %d: another is not asked", second)
		}
	}
}

// TestLongAgoIsNotCounted wants what was counted before a silence not to eject.
func TestLongAgoIsNotCounted(t *testing.T) {
	j := newJudging(t, byLatency(3), "a", "b", "c", "d")
	j.attempt("a", false, time.Millisecond, start)
	for _, name := range []string{"a", "b", "c"} {
		j.attempts(name, 60, 0, time.Millisecond, start)
	}
	j.attempts("d", 60, 0, time.Second, start)
	if got := j.ends(start.Add(time.Hour)); got != nil {
		t.Errorf("an hour later %v are ejected", got)
	}
}
