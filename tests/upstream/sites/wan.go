package main

import (
	"bufio"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// Many kernels, those of small virtual machines among them, come without netem, which this stands for: a switch between TAP
// devices. What a site sends waits its turn at the site's rate, then half a round trip, then it is there.
//
// A line of input is `link SITE ROUND-TRIP-us LOSS-% RATE-bit/s` (0: no limit), `cut SITE 0|1` or `count`; each is answered by
// a line. A site is its place in -tap, and the last byte of its hardware address less one.

const (
	// Packets that wait at a site's narrow link before more are dropped: a second's worth at 1 Mbit/s.
	queued = 100
	// Packets under way from one site.
	underWay = 16384
	// The largest frame.
	frame = 1600
	// Where a frame says who it is for.
	broadcast = 0xff
	lastByte  = 5
)

// How a site is linked to the others; microseconds, parts of a million, bits a second.
type link struct {
	delay, loss, rate atomic.Int64
	cut               atomic.Bool
	// Bytes that it sent and that others got.
	sent atomic.Int64
}

type packet struct {
	due  time.Time
	data []byte
}

type port struct {
	file *os.File
	link link
	wire chan packet
	// When its rate allows the next packet.
	free time.Time
}

func open(name string) (*os.File, error) {
	fd, err := syscall.Open("/dev/net/tun", syscall.O_RDWR|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	// A struct ifreq.
	var request [40]byte
	copy(request[:syscall.IFNAMSIZ-1], name)
	*(*uint16)(unsafe.Pointer(&request[syscall.IFNAMSIZ])) = syscall.IFF_TAP | syscall.IFF_NO_PI
	if _, _, failed := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TUNSETIFF, uintptr(unsafe.Pointer(&request))); failed != 0 {
		return nil, fmt.Errorf("%s: %w", name, failed)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func wan(args []string) error {
	flags := flag.NewFlagSet("wan", flag.ExitOnError)
	taps := flags.String("tap", "", "names of the devices to make")
	_ = flags.Parse(args)
	var ports []*port
	for _, name := range strings.Split(*taps, ",") {
		file, err := open(name)
		if err != nil {
			return err
		}
		ports = append(ports, &port{file: file, wire: make(chan packet, underWay)})
	}
	for _, from := range ports {
		go from.read(ports)
		go from.deliver(ports)
	}
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		fmt.Println(obey(lines.Text(), ports))
	}
	return lines.Err()
}

func obey(line string, ports []*port) string {
	var at int
	var delay, rate int64
	var loss float64
	if n, _ := fmt.Sscanf(line, "link %d %d %f %d", &at, &delay, &loss, &rate); n == 4 && at < len(ports) {
		ports[at].link.delay.Store(delay / 2)
		ports[at].link.loss.Store(int64(loss * 10_000))
		ports[at].link.rate.Store(rate)
		return "done"
	}
	var cut int
	if n, _ := fmt.Sscanf(line, "cut %d %d", &at, &cut); n == 2 && at < len(ports) {
		ports[at].link.cut.Store(cut == 1)
		return "done"
	}
	if line == "count" {
		var sent []string
		for _, port := range ports {
			sent = append(sent, fmt.Sprint(port.link.sent.Load()))
		}
		return strings.Join(sent, " ")
	}
	return "not understood: " + line
}

// Takes what the site sends, and sends on what its link lets through.
func (from *port) read(ports []*port) {
	buffer := make([]byte, frame)
	for {
		size, err := from.file.Read(buffer)
		if err != nil {
			// The site is gone.
			return
		}
		due, goes := from.due(size, time.Now())
		if !goes {
			continue
		}
		if due.IsZero() && len(from.wire) == 0 {
			from.send(buffer[:size], ports)
			continue
		}
		select {
		case from.wire <- packet{due, append([]byte(nil), buffer[:size]...)}:
		default:
		}
	}
}

// When a packet arrives, if it does; zero: at once.
func (from *port) due(size int, now time.Time) (time.Time, bool) {
	delay, loss, rate := from.link.delay.Load(), from.link.loss.Load(), from.link.rate.Load()
	if from.link.cut.Load() || (loss > 0 && rand.Int63n(1_000_000) < loss) {
		return time.Time{}, false
	}
	if rate == 0 && delay == 0 {
		return time.Time{}, true
	}
	sent := now
	if rate > 0 {
		takes := func(bytes int) time.Duration { return time.Duration(int64(bytes) * 8 * int64(time.Second) / rate) }
		if from.free.Sub(now) > takes(queued*frame) {
			return time.Time{}, false
		}
		if from.free.After(now) {
			sent = from.free
		}
		sent = sent.Add(takes(size))
		from.free = sent
	}
	return sent.Add(time.Duration(delay) * time.Microsecond), true
}

func (from *port) deliver(ports []*port) {
	for packet := range from.wire {
		time.Sleep(time.Until(packet.due))
		from.send(packet.data, ports)
	}
}

func (from *port) send(data []byte, ports []*port) {
	if len(data) <= lastByte {
		return
	}
	for at, to := range ports {
		if to == from || to.link.cut.Load() || (data[0] != broadcast && int(data[lastByte]) != at+1) {
			continue
		}
		if _, err := to.file.Write(data); err == nil {
			from.link.sent.Add(int64(len(data)))
		}
	}
}
