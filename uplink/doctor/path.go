package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/waybill-telematics/waybill/uplink/network"
)

// path tries the way to where TLS or MQTT begins: name, addresses, proxy.
func (x *examination) path(ctx context.Context) {
	if x.failed[StepLinks] {
		x.skipAll("no link is up", StepDNS, StepTCP, StepProxy)
		return
	}
	target, whose := x.trial.Addr(), "the broker"
	if x.o.Proxy != nil {
		proxy, err := x.o.Proxy(target)
		if err != nil {
			x.skipAll("the proxy is not known", StepDNS, StepTCP)
			x.fail(StepProxy, fmt.Sprintf("the proxy's address or password cannot be had: %v", err), "uplink.proxy, proxy_password_file, or HTTPS_PROXY in the environment")
			return
		}
		if x.proxy = proxy; proxy != nil {
			target, whose = network.ProxyAddr(proxy), "the proxy"
		}
	}
	if addresses := x.dns(ctx, target, whose); len(addresses) > 0 {
		x.tcp(ctx, addresses, whose)
	} else {
		x.skip(StepTCP, "without an address")
	}
	switch {
	case x.proxy == nil:
		x.skip(StepProxy, "none is used")
	case x.failed[StepDNS] || x.failed[StepTCP]:
		x.skip(StepProxy, "it cannot be reached")
	default:
		x.tunnel(ctx)
	}
}

// dns finds the addresses of host:port.
func (x *examination) dns(ctx context.Context, target, whose string) []string {
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		x.fail(StepDNS, fmt.Sprintf("%q is no host and port", target), "correct broker: or proxy:")
		return nil
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		x.skip(StepDNS, fmt.Sprintf("%s is named by its address %s", whose, ip))
		return []string{target}
	}
	ctx, cancel := x.step(ctx)
	defer cancel()
	resolver := x.o.Resolver
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	ips, err := resolver.LookupHost(ctx, host)
	if err != nil {
		var dns *net.DNSError
		switch {
		case errors.As(err, &dns) && dns.IsNotFound:
			x.fail(StepDNS, fmt.Sprintf("the name of %s, %s, does not exist, says the name server", whose, host),
				"correct broker: or proxy: if it is misspelt; a name of a private network is known only inside of it (VPN, APN, /etc/hosts)")
		case errors.As(err, &dns) && dns.IsTimeout, errors.Is(err, context.DeadlineExceeded):
			x.fail(StepDNS, fmt.Sprintf("no name server answered when asked for %s", host),
				"name servers stand in /etc/resolv.conf; look whether the network leads to them, and whether it wants a login first")
		default:
			x.fail(StepDNS, fmt.Sprintf("the name %s does not resolve: %v", host, err), "look at /etc/resolv.conf and at the name server")
		}
		return nil
	}
	var addresses []string
	for _, ip := range ips {
		addresses = append(addresses, net.JoinHostPort(ip, port))
	}
	x.ok(StepDNS, fmt.Sprintf("%s is %s", host, strings.Join(ips, ", ")))
	return addresses
}

// tcp connects to every address, side by side, each with the whole time of a step.
func (x *examination) tcp(ctx context.Context, addresses []string, whose string) {
	ctx, cancel := x.step(ctx)
	defer cancel()
	errs, took := make([]error, len(addresses)), make([]time.Duration, len(addresses))
	var tries sync.WaitGroup
	for i, address := range addresses {
		tries.Go(func() {
			began := time.Now()
			conn, err := x.o.Direct(ctx, "tcp", address)
			if took[i], errs[i] = time.Since(began), err; err == nil {
				_ = conn.Close() // it carried nothing
			}
		})
	}
	tries.Wait()
	var good, bad []string
	var first error
	for i, address := range addresses {
		if errs[i] == nil {
			good = append(good, fmt.Sprintf("%s answers in %s", address, took[i].Round(100*time.Microsecond)))
			continue
		}
		if first == nil {
			first = errs[i]
		}
		what, _ := reachable(errs[i])
		bad = append(bad, address+": "+what)
	}
	if len(good) == 0 {
		_, remedy := reachable(first)
		x.fail(StepTCP, fmt.Sprintf("%s cannot be reached: %s", whose, strings.Join(bad, "; ")), remedy)
		return
	}
	text := strings.Join(good, ", ")
	if len(bad) > 0 {
		text += "; not reached, which costs time at each connection: " + strings.Join(bad, "; ")
	}
	x.ok(StepTCP, text)
}

// reachable puts the error of a connect into words, and what to do.
func reachable(err error) (what, remedy string) {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused, nobody listens on that port", "check that the broker runs, and its port: 1883 plain, 8883 TLS, 443 websockets are usual; a firewall may refuse in its place"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return "no answer", "a firewall drops it, or the address is not the broker's: open the port for this vehicle's network, correct broker:, or name a proxy:"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "no route leads there", "look at ip route, and whether the network is up; an address of IPv6 needs a network that has it"
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return "not permitted: " + err.Error(), "a local firewall (nft list ruleset), or SO_BINDTODEVICE without CAP_NET_RAW on a kernel before 5.7"
	}
	return err.Error(), "look at the network and at uplink.links"
}

// tunnel asks the proxy for the way to the broker.
func (x *examination) tunnel(ctx context.Context) {
	ctx, cancel := x.step(ctx)
	defer cancel()
	conn, err := x.trial.Options().Dial(ctx, "tcp", x.trial.Addr())
	if err != nil {
		remedy := "proxy: and proxy_user: in the configuration; the proxy has to allow CONNECT to " + x.trial.Addr() + " (many allow port 443 only: let the broker listen there, or widen the rule)"
		text := err.Error()
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
			text = fmt.Sprintf("proxy %s does not answer in time: it may not reach %s itself", x.proxy.Redacted(), x.trial.Addr())
		}
		x.fail(StepProxy, text, remedy)
		return
	}
	_ = conn.Close() // it carried nothing
	x.ok(StepProxy, fmt.Sprintf("%s lets us through to %s", x.proxy.Redacted(), x.trial.Addr()))
}
