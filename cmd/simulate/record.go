package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/test/drive"
)

// record opens the files of a folder that takes a drive, and writes its DBC file. One that holds a drive is left alone.
func record(folder, name string, start time.Time) (bus, line, error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, nil, err
	}
	log := filepath.Join(folder, "drive.log")
	if _, err := os.Lstat(log); err == nil {
		return nil, nil, fmt.Errorf("%s is there already: choose another folder", log)
	}
	if err := os.WriteFile(filepath.Join(folder, "car.dbc"), drive.DBC(), 0o644); err != nil {
		return nil, nil, err
	}
	b, err := openBus(context.Background(), log, name)
	if err != nil {
		return nil, nil, err
	}
	l, err := openLine(context.Background(), filepath.Join(folder, "drive.nmea"), start)
	if err != nil {
		return nil, nil, errors.Join(err, b.Close())
	}
	return b, l, nil
}

func writeSummary(folder string, sum summary) error {
	text, err := json.MarshalIndent(sum, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "summary.json"), append(text, '\n'), 0o644)
}

// busTee gives each frame to the bus, and what the bus took to the record.
type busTee struct{ bus, record bus }

func (t busTee) Send(ctx context.Context, at time.Time, f *can.Frame) error {
	if err := t.bus.Send(ctx, at, f); err != nil {
		return err
	}
	return t.record.Send(ctx, at, f)
}
func (t busTee) Flush() error { return errors.Join(t.bus.Flush(), t.record.Flush()) }
func (t busTee) Close() error { return errors.Join(t.bus.Close(), t.record.Close()) }

// lineTee likewise.
type lineTee struct{ line, record line }

func (t lineTee) Send(sentences []byte) error {
	if err := t.line.Send(sentences); err != nil {
		return err
	}
	return t.record.Send(sentences)
}
func (t lineTee) Unread() uint64 { return t.line.Unread() }
func (t lineTee) Flush() error   { return errors.Join(t.line.Flush(), t.record.Flush()) }
func (t lineTee) Close() error   { return errors.Join(t.line.Close(), t.record.Close()) }
