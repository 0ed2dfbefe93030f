// SPDX-License-Identifier: MIT

// Drive a machine's disk with digitalocean's go-qemu, a QMP client that
// knows nothing of us: client SOCKET OVERLAY COPY.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/digitalocean/go-qemu/qemu"
	"github.com/digitalocean/go-qemu/qmp"
)

const limit = 20 * time.Second

func check(what string, err error) {
	if err != nil {
		fmt.Println(what+":", err)
		os.Exit(1)
	}
	fmt.Println(what)
}

func only(d *qemu.Domain) qemu.BlockDevice {
	devices, err := d.BlockDevices()
	check("devices", err)
	return devices[0]
}

func hmp(d *qemu.Domain, line string) string {
	reply, err := d.Run(qmp.Command{
		Execute: "human-monitor-command",
		Args:    map[string]string{"command-line": line},
	})
	check("hmp "+line, err)
	var text struct{ Return string }
	check("reply", json.Unmarshal(reply, &text))
	return text.Return
}

func finish(d *qemu.Domain, how func(qemu.BlockJob) error) {
	jobs, err := d.BlockJobs()
	check("jobs", err)
	check("end "+jobs[0].Device, how(jobs[0]))
}

func main() {
	mon, err := qmp.NewSocketMonitor("unix", os.Args[1], limit)
	check("socket", err)
	check("connect", mon.Connect())
	d, err := qemu.NewDomain(mon, "disk")
	check("domain", err)
	for _, name := range []string{"human-monitor-command", "getfd"} {
		known, err := d.Supported(name)
		check("supported", err)
		fmt.Println(name, known)
	}
	_, err = d.Version()
	check("version", err)
	status, err := d.Status()
	check("status", err)
	fmt.Println("status is", status)
	_, err = d.BlockStats()
	check("stats", err)
	_, err = d.PCIDevices()
	check("pci", err)

	disk := only(d)
	hmp(d, "qemu-io "+disk.Device+" \"write -P 7 0 64k\"")
	check("snapshot", disk.Snapshot(d, os.Args[2], "overlay"))
	disk = only(d)
	fmt.Println("node is", disk.Inserted.NodeName)
	check("commit", disk.Commit(d, os.Args[2], "j", limit))
	finish(d, func(j qemu.BlockJob) error { return j.Complete(d, limit) })
	disk = only(d)
	check("mirror", disk.Mirror(d, os.Args[3], limit))
	finish(d, func(j qemu.BlockJob) error { return j.Cancel(d, limit) })

	file, err := os.Open("/dev/null")
	check("open", err)
	_, err = mon.RunWithFile([]byte(
		`{"execute": "getfd", "arguments": {"fdname": "null"}}`), file)
	check("getfd", err)
	check("reset", d.SystemReset())
	fmt.Print(hmp(d, "info block-jobs"))
	fmt.Println("done")
}
