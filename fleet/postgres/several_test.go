//go:build system

package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/fleet/store/storetest"
	"github.com/waybill-telematics/waybill/test/deps"
)

// deliver stores a batch of ten samples, if it is new, and says whether it was.
func deliver(tx store.Tx, device string, seq uint64) (isNew bool, err error) {
	d, err := tx.Device("acme", device, storetest.Now)
	if err != nil {
		return false, err
	}
	g, err := tx.NamedSignal(d, "can0.A.B", "V")
	if err != nil {
		return false, err
	}
	b := storetest.Batch(seq, uint32(seq))
	b.Samples = 10
	p, err := tx.PutBatch(d, b)
	if err != nil || p.Outcome != store.OutcomeNew {
		return false, err
	}
	rows := make([]store.Row, 10)
	for i := range rows {
		rows[i] = store.Row{Index: uint32(i), Signal: g, BootNS: int64(seq)}
	}
	return true, tx.PutSamples(p.ID, rows)
}

// TestTheSameFromSeveral: several processes store the same batches of the same new devices at once, in orders that lead to
// deadlocks. Each batch is there once, and each was new to one of them.
func TestTheSameFromSeveral(t *testing.T) {
	const processes, devices, batches = 4, 5, 20
	url := fresh(t, quick(t))
	var mu sync.Mutex
	news := map[string]int{}
	var tasks sync.WaitGroup
	stores := make([]*Store, processes)
	var opened sync.WaitGroup
	for i := range stores { // an empty database, which all find at once
		opened.Go(func() {
			var err error
			if stores[i], err = Open(context.Background(), url, options()); err != nil {
				t.Error(err)
			}
		})
	}
	opened.Wait()
	if t.Failed() {
		return
	}
	for i, s := range stores {
		defer s.Close()
		if s.Generation() != stores[0].Generation() || s.Name() != stores[0].Name() {
			t.Error("two processes have two stores")
		}
		for range 2 {
			tasks.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(i), 1))
				for _, seq := range rng.Perm(batches) {
					var mine []string
					err := s.Update(context.Background(), func(tx store.Tx) error {
						mine = nil
						for _, d := range rng.Perm(devices) {
							device := fmt.Sprint("car-", d)
							isNew, err := deliver(tx, device, uint64(seq+1))
							if err != nil {
								return err
							}
							if isNew {
								mine = append(mine, fmt.Sprint(device, "/", seq))
							}
						}
						return nil
					})
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					for _, name := range mine {
						news[name]++
					}
					mu.Unlock()
				}
			})
		}
	}
	tasks.Wait()
	if len(news) != devices*batches {
		t.Errorf("%d batches were new, want %d", len(news), devices*batches)
	}
	for name, n := range news {
		if n != 1 {
			t.Errorf("batch %s was new %d times", name, n)
		}
	}
	if n := stores[1].Totals(); n.Devices != devices || n.Batches != devices*batches || n.Samples != 10*devices*batches || n.Gaps != 0 {
		t.Errorf("totals %+v", n)
	}
	check(t, url)
}

// TestWhoWaitsForTheSameKey: the second inserter of a key waits for the first, and takes it when the first gives up.
func TestWhoWaitsForTheSameKey(t *testing.T) {
	url := fresh(t, quick(t))
	one, other := open(t, url, options()), open(t, url, options())
	for _, givesUp := range []bool{true, false} {
		broken := errors.New("given up")
		inserted, proceed := make(chan struct{}), make(chan struct{})
		second := make(chan bool, 1)
		go func() {
			<-inserted
			var isNew bool
			go func() { time.Sleep(50 * time.Millisecond); close(proceed) }() // by then the other one waits, or the test shows less
			if err := other.Update(context.Background(), func(tx store.Tx) (err error) { isNew, err = deliver(tx, "car-1", 1); return err }); err != nil {
				t.Error(err)
			}
			second <- isNew
		}()
		err := one.Update(context.Background(), func(tx store.Tx) error {
			if _, err := deliver(tx, "car-1", 1); err != nil {
				return err
			}
			close(inserted)
			<-proceed
			if givesUp {
				return broken
			}
			return nil
		})
		if givesUp != errors.Is(err, broken) {
			t.Fatal(err)
		}
		if isNew := <-second; isNew != givesUp {
			t.Errorf("the first gave up: %v, and the second one's was new: %v", givesUp, isNew)
		}
	}
	check(t, url)
}

// TestOneConsumerOfAPartition: of consumers that hold the same offset one commits, over and over, and what is stored is what
// the offsets say.
func TestOneConsumerOfAPartition(t *testing.T) {
	const upTo = 60
	url := fresh(t, quick(t))
	var tasks sync.WaitGroup
	var fenced, moved [3]int
	for i := range 3 {
		s := open(t, url, options())
		tasks.Go(func() {
			for {
				var from int64
				err := s.Update(context.Background(), func(tx store.Tx) error {
					next, found, err := tx.Position("raw", 2)
					if err != nil {
						return err
					}
					if from = next; !found {
						from = -1
					}
					time.Sleep(time.Millisecond) // so that others read the same
					if next >= upTo {
						return nil
					}
					if _, err := deliver(tx, fmt.Sprint("car-", i), uint64(next+1)); err != nil {
						return err
					}
					return tx.Advance("raw", 2, from, next+1)
				})
				switch {
				case errors.Is(err, store.ErrFenced):
					fenced[i]++
				case err != nil:
					t.Error(err)
					return
				case from >= upTo:
					return
				default:
					moved[i]++
				}
			}
		})
	}
	tasks.Wait()
	t.Logf("moved %v, fenced %v", moved, fenced)
	s := open(t, url, options())
	if n := s.Totals(); n.Batches != upTo || moved[0]+moved[1]+moved[2] != upTo {
		t.Errorf("%d batches for %d offsets; moved %v", n.Batches, upTo, moved)
	}
	check(t, url)
}

// TestDeadlocksAreTriedAgain: two transactions that wait for each other both commit in the end.
func TestDeadlocksAreTriedAgain(t *testing.T) {
	url := fresh(t, quick(t))
	// The devices are known: who makes a new one holds its tenant's row, and there would be no deadlock.
	if err := open(t, url, options()).Update(context.Background(), func(tx store.Tx) error {
		_, one := deliver(tx, "car-1", 3)
		_, two := deliver(tx, "car-2", 3)
		return errors.Join(one, two)
	}); err != nil {
		t.Fatal(err)
	}
	var tasks sync.WaitGroup
	var both sync.WaitGroup
	both.Add(2)
	var tries [2]int
	for i, order := range [][]string{{"car-1", "car-2"}, {"car-2", "car-1"}} {
		s := open(t, url, options())
		tasks.Go(func() {
			err := s.Update(context.Background(), func(tx store.Tx) error {
				tries[i]++
				if _, err := deliver(tx, order[0], uint64(i+1)); err != nil {
					return err
				}
				if tries[i] == 1 {
					both.Done()
					both.Wait()
				}
				if _, err := deliver(tx, order[1], uint64(i+1)); err != nil {
					return errors.New("what f makes of an error must not hide it") // as a careless caller would
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	tasks.Wait()
	if tries[0]+tries[1] != 3 {
		t.Errorf("tries %v: want one of the two again, once", tries)
	}
	check(t, url)
}

// TestServerKilled: what Update confirmed is there after the server was killed amid transactions, what it did not is whole or
// not there, and nothing twice.
func TestServerKilled(t *testing.T) {
	p := deps.Postgres(t) // with fsync
	url := fresh(t, p)
	const workers = 4
	stores := make([]*Store, workers)
	for i := range stores {
		stores[i] = open(t, url, options())
	}
	generation := stores[0].Generation()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	confirmed := make([]uint64, workers)
	var tasks sync.WaitGroup
	for i, s := range stores {
		tasks.Go(func() {
			for seq := uint64(1); ctx.Err() == nil; {
				err := s.Update(context.WithoutCancel(ctx), func(tx store.Tx) error {
					_, err := deliver(tx, fmt.Sprint("car-", i), seq)
					return err
				})
				if err != nil { // the vehicle sends it again
					time.Sleep(20 * time.Millisecond)
					continue
				}
				confirmed[i] = seq
				seq++
			}
		})
	}
	for range 4 {
		time.Sleep(400 * time.Millisecond)
		p.Kill()
		p.Start()
	}
	cancel()
	tasks.Wait()
	s := open(t, url, options())
	if s.Generation() != generation {
		t.Error("a killed server was taken for a restored one")
	}
	var all int64
	for i, n := range confirmed {
		if n < 4 {
			t.Errorf("worker %d confirmed %d batches: nothing was tried", i, n)
		}
		all += int64(n)
	}
	if n := s.Totals(); n.Batches != all || n.Samples != 10*all || n.Gaps != 0 {
		t.Errorf("totals %+v, confirmed %d batches", n, all)
	}
	t.Logf("confirmed %v", confirmed)
	check(t, url)
}

// TestAbandonedTransaction: a process that is stopped within a transaction keeps others from its devices for a bounded time only.
func TestAbandonedTransaction(t *testing.T) {
	ctx := context.Background()
	url := fresh(t, quick(t))
	other := open(t, url, options())
	for name, want := range map[string]string{"idle_in_transaction_session_timeout": "1min", "tcp_keepalives_idle": "15", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"} {
		var got string
		if err := other.each(ctx, "SELECT current_setting($1)", []any{name}, []any{&got}, func() error { return nil }); err != nil || got != want {
			t.Errorf("%s is %s, want %s; %v", name, got, want, err)
		}
	}
	stopped := open(t, url+"?idle_in_transaction_session_timeout=1000", options())
	device := func(tx store.Tx) error { _, err := tx.Device("acme", "car-1", storetest.Now); return err }
	holds, goOn, ended := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		ended <- stopped.Update(ctx, func(tx store.Tx) error {
			err := device(tx)
			close(holds)
			<-goOn
			return err
		})
	}()
	<-holds
	soon, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := other.Update(soon, device); err != nil {
		t.Errorf("beside a transaction that nobody goes on with: %v", err)
	}
	close(goOn)
	if err := <-ended; err == nil {
		t.Error("the transaction that was ended was committed")
	}
}
