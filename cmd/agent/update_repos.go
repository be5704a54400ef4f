package main

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"

	"github.com/waybill-telematics/waybill/firmware"
	"github.com/waybill-telematics/waybill/firmware/conditions"
	"github.com/waybill-telematics/waybill/firmware/slots"
	"github.com/waybill-telematics/waybill/firmware/trust"
)

// resolve asks both repositories what this vehicle is to run.
func (u *updater) resolve(ctx context.Context) (trust.Bundle, error) {
	if u.quiet() {
		return nil, errors.New("the vehicle is parked, and stays off the network")
	}
	if u.repos == nil {
		v, err := u.openRepos()
		if err != nil {
			return nil, err
		}
		u.repos = v
	}
	units, err := u.ecus()
	if err != nil {
		return nil, err
	}
	return u.repos.Resolve(ctx, units)
}

// ecus are this vehicle's units with what is installed on them: also one whose updates are refused, since an order for a unit
// that the vehicle does not have is refused with all others.
func (u *updater) ecus() ([]trust.ECU, error) {
	own := trust.ECU{ID: u.set.ECU, Hardware: u.set.Hardware}
	if u.slots != nil {
		st, err := u.slots.Status()
		if err != nil {
			return nil, err
		}
		own.Release = release(st.Slots[st.Committed].Image)
	}
	if u.system == nil {
		return []trust.ECU{own}, nil
	}
	image, ok, err := u.system.Installed()
	if err != nil {
		return nil, err
	}
	system := trust.ECU{ID: u.set.Installer.ECU, Hardware: u.set.Installer.Hardware}
	if ok {
		system.Release = release(&image)
	}
	return []trust.ECU{own, system}, nil
}

// release is the release counter of an image; what nobody knows counts as 0.
func release(image *slots.Meta) uint64 {
	if image == nil {
		return 0
	}
	return uint64(max(0, image.ReleaseCounter))
}

func (u *updater) openRepos() (*trust.Vehicle, error) {
	reference, err := trust.OpenReference(trust.ReferenceOptions{
		Path: u.path("time"), Built: firmware.Current().Built, Clock: u.vouchedTime, Logger: u.log,
	})
	if err != nil {
		return nil, err
	}
	open := func(name string, bases []string, factory string, director bool) (*trust.Client, error) {
		o := trust.Options{Name: name, Reference: reference.Now, NoDelegations: director, Logger: u.log}
		for _, base := range bases {
			mirror, err := trust.NewHTTP(trust.HTTPOptions{Base: base, Client: u.client.metadata})
			if err != nil {
				return nil, err
			}
			o.Mirrors = append(o.Mirrors, mirror)
		}
		if o.FactoryRoot, err = os.ReadFile(factory); err != nil && !errors.Is(err, fs.ErrNotExist) { // it counts once
			return nil, err
		}
		if o.Store, err = trust.OpenStore(u.path(name)); err != nil {
			return nil, err
		}
		return trust.New(o)
	}
	director, err := open("director", u.set.Director, u.set.DirectorRoot, true)
	if err != nil {
		return nil, err
	}
	images, err := open("image", u.set.Images, u.set.ImagesRoot, false)
	if err != nil {
		return nil, err
	}
	return trust.NewVehicle(trust.VehicleOptions{Director: director, Image: images, Reference: reference})
}

func (u *updater) openConsents() error {
	s := u.set.Consent
	if s == nil || u.consents != nil {
		return nil
	}
	var asker conditions.Asker = &conditions.SocketAsker{Path: s.Socket, UIDs: s.UIDs}
	if s.File != "" {
		asker = &conditions.FileAsker{Dir: s.File, UIDs: s.UIDs, Rand: rand.Reader}
	}
	var err error
	u.consents, err = conditions.OpenConsents(conditions.ConsentOptions{Path: u.path("consent.json"), Logger: u.log,
		Now: func() conditions.Moment {
			wall, known := u.vouchedTime()
			return conditions.Moment{Boot: u.clock.Boot(), ID: u.boot.ID, Wall: wall, Known: known}
		}}, asker)
	return err
}
