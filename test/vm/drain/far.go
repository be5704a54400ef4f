package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

// The ports of the far end, on every link.
const (
	plainPort  = 9
	brokerPort = 1883
)

// arrived is the far end's report.
type arrived struct {
	Plain   []int          `json:"plain"`   // bytes, by link
	Batches map[string]int `json:"batches"` // in the store, by device; they are those from 1 on
}

// far is the process beyond the links: it does as it is told, a line at a time.
func far(o *options) error {
	if err := setUp("lo"); err != nil {
		return err
	}
	broker, err := uplinktest.NewBroker()
	if err != nil {
		return err
	}
	defer broker.Close()
	store := uplinktest.NewStore(broker.Addr(), "store")
	defer store.Close()
	for end := time.Now().Add(time.Minute); !store.Attached(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("the store does not get to its broker")
		}
	}
	counts := make([]atomic.Int64, o.links())
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		switch lines.Text() {
		case "equip":
			for i := range o.links() {
				if err := o.equip(fmt.Sprintf("far%d", i), i, 2); err != nil {
					return err
				}
				if err := serve(i, &counts[i], broker.Addr()); err != nil {
					return err
				}
			}
			fmt.Println("ready")
		case "report":
			report, err := look(store, counts)
			if err != nil {
				return err
			}
			if err := json.NewEncoder(os.Stdout).Encode(report); err != nil {
				return err
			}
		}
	}
	return lines.Err()
}

// serve listens on both ports of a link, until the process ends.
func serve(i int, count *atomic.Int64, broker string) error {
	plain, err := net.Listen("tcp", fmt.Sprintf("10.9.%d.2:%d", i, plainPort))
	if err != nil {
		return err
	}
	mqtt, err := net.Listen("tcp", fmt.Sprintf("10.9.%d.2:%d", i, brokerPort))
	if err != nil {
		return err
	}
	go each(plain, func(conn net.Conn) {
		b := make([]byte, 64<<10)
		for {
			n, err := conn.Read(b)
			count.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	go each(mqtt, func(conn net.Conn) { // the broker listens on the loopback only
		inner, err := net.Dial("tcp", broker)
		if err != nil {
			return
		}
		var both sync.WaitGroup
		forward := func(to, from net.Conn) {
			_, _ = io.Copy(to, from)
			_ = to.Close()
			_ = from.Close()
		}
		both.Go(func() { forward(inner, conn) })
		both.Go(func() { forward(conn, inner) })
		both.Wait()
	})
	return nil
}

// each serves connections until the process ends.
func each(l net.Listener, f func(net.Conn)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			f(conn)
		}()
	}
}

// look says what has arrived by now.
func look(store *uplinktest.Store, counts []atomic.Int64) (arrived, error) {
	report := arrived{Batches: map[string]int{}}
	for i := range counts {
		report.Plain = append(report.Plain, int(counts[i].Load()))
	}
	if err := store.Err(); err != nil {
		return report, err
	}
	highest := map[string]uint64{}
	for _, s := range store.Order() {
		report.Batches[s.Device]++
		highest[s.Device] = max(highest[s.Device], s.Seq)
	}
	for device, n := range report.Batches {
		if uint64(n) != highest[device] {
			return report, fmt.Errorf("%s: %d batches, the highest is %d", device, n, highest[device])
		}
	}
	return report, nil
}
