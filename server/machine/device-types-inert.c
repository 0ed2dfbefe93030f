/* SPDX-License-Identifier: MIT */
/*
 * Devices that managers pass and a machine without a guest has no use for:
 * their places on buses, and the names of their properties (facts of QEMU's
 * device-list-properties), so that a misspelt one is told.
 */
#include "server/machine/device-types.h"

#define VIRTIO_NAMES \
    " " \
    "aer any_layout ats disable-legacy disable-modern event_idx " \
    "indirect_desc ioeventfd iommu_platform migrate-extra " \
    "modern-pio-notify notify_on_empty packed page-per-vq queue_reset " \
    "use-disabled-flag use-started vectors " \
    "virtio-pci-bus-master-bug-migration x-ats-page-aligned " \
    "x-disable-legacy-check x-disable-pcie x-ignore-backend-features " \
    "x-pcie-deverr-init x-pcie-flr-init x-pcie-lnkctl-init " \
    "x-pcie-pm-init "
#define USB_NAMES " attached msos-desc pcap port serial usb_version "

const struct device_type inert_device_types[] = {
    { .name = "virtio-balloon-pci", .parent = "virtio-pci", .bus = BUS_PCI,
      .props = pci_props,
      .names = VIRTIO_NAMES " "
        "free-page-reporting deflate-on-oom page-poison "
        "guest-stats-polling-interval guest-stats iothread "
        "qemu-4-0-config-size free-page-hint " },
    { .name = "virtio-gpu-pci", .parent = "virtio-pci", .bus = BUS_PCI,
      .props = pci_props,
      .names = VIRTIO_NAMES " "
        "yres edid max_hostmem blob max_outputs xres " },
    { .name = "virtio-keyboard-pci", .parent = "virtio-pci", .bus = BUS_PCI,
      .props = pci_props,
      .names = VIRTIO_NAMES " "
        "display head serial " },
    { .name = "virtio-mouse-pci", .parent = "virtio-pci", .bus = BUS_PCI,
      .props = pci_props,
      .names = VIRTIO_NAMES " "
        "wheel-axis display head serial " },
    { .name = "virtio-net-pci", .parent = "virtio-pci", .bus = BUS_PCI,
      .props = pci_props,
      .names = VIRTIO_NAMES " "
        "mac gso x-txtimer mq mrg_rxbuf x-txburst host_mtu tx rss "
        "status failover ctrl_mac_addr tx_queue_size guest_tso4 "
        "hash host_tso6 ctrl_guest_offloads guest_ufo ctrl_vq "
        "guest_ecn host_ufo host_ecn guest_rsc_ext duplex "
        "rsc_interval guest_announce netdev host_tso4 "
        "x-mtu-bypass-backend ctrl_rx_extra rx_queue_size "
        "guest_csum bootindex ctrl_vlan guest_tso6 speed csum "
        "ctrl_rx " },
    { .name = "virtio-rng-pci", .parent = "virtio-pci", .bus = BUS_PCI,
      .props = pci_props,
      .names = VIRTIO_NAMES " "
        "period max-bytes rng " },
    { .name = "virtio-tablet-pci", .parent = "virtio-pci", .bus = BUS_PCI,
      .props = pci_props,
      .names = VIRTIO_NAMES " "
        "wheel-axis display head serial " },
    { .name = "virtio-vga", .parent = "pci-device", .bus = BUS_PCI,
      .props = pci_props,
      .names = VIRTIO_NAMES " "
        "big-endian-framebuffer yres edid max_hostmem blob "
        "max_outputs xres " },
    { .name = "VGA", .parent = "pci-device", .bus = BUS_PCI,
      .props = pci_props,
      .names = " refresh_rate global-vmstate big-endian-framebuffer vgamem_mb "
        "qemu-extended-regs mmio ymax yres xmax edid xres " },
    { .name = "bochs-display", .parent = "pci-device", .bus = BUS_PCI,
      .props = pci_props,
      .names = " xmax xres ymax edid yres vgamem refresh_rate "
        "big-endian-framebuffer " },
    { .name = "cirrus-vga", .parent = "pci-device", .bus = BUS_PCI,
      .props = pci_props,
      .names = " global-vmstate blitter vgamem_mb " },
    { .name = "qxl-vga", .parent = "pci-device", .bus = BUS_PCI,
      .props = pci_props,
      .names = " global-vmstate vgamem_mb vram64_size_mb vram_size_mb debug "
        "max_outputs revision cmdlog yres ram_size_mb ram_size "
        "vram_size guestdebug xres surfaces " },
    { .name = "e1000", .parent = "pci-device", .bus = BUS_PCI,
      .props = pci_props,
      .names = " init-vet mitigation netdev autonegotiation "
        "extra_mac_registers "
        "migrate_tso_props mac bootindex " },
    { .name = "e1000e", .parent = "pci-device", .bus = BUS_PCI,
      .props = pci_props,
      .names = " subsys subsys_ven netdev init-vet disable_vnet_hdr mac "
        "bootindex " },
    { .name = "rtl8139", .parent = "pci-device", .bus = BUS_PCI,
      .props = pci_props,
      .names = " netdev mac bootindex " },
    { .name = "i6300esb", .parent = "pci-device", .bus = BUS_PCI,
      .props = pci_props,
      .names = " " },
    { .name = "hda-duplex", .parent = "device", .bus = BUS_HDA,
      .props = no_props,
      .names = " cad use-timer audiodev debug mixer " },
    { .name = "isa-serial", .parent = "isa-device", .bus = BUS_ISA,
      .props = no_props,
      .names = " irq index iobase wakeup chardev baudbase serial " },
    { .name = "pvpanic", .parent = "isa-device", .bus = BUS_ISA,
      .props = no_props,
      .names = " ioport events pvpanic[0] " },
    { .name = "usb-hub", .parent = "usb-device", .bus = BUS_USB,
      .props = no_props,
      .names = USB_NAMES " "
        "ports port-power " },
    { .name = "usb-kbd", .parent = "usb-device", .bus = BUS_USB,
      .props = no_props,
      .names = USB_NAMES " "
        "display " },
    { .name = "usb-mouse", .parent = "usb-device", .bus = BUS_USB,
      .props = no_props,
      .names = USB_NAMES " " },
    { .name = "usb-tablet", .parent = "usb-device", .bus = BUS_USB,
      .props = no_props,
      .names = USB_NAMES " "
        "display head " },
    { .name = "virtconsole", .parent = "device", .bus = BUS_VIRTIO_SERIAL,
      .props = no_props,
      .names = " nr name chardev " },
    { .name = "virtserialport", .parent = "device", .bus = BUS_VIRTIO_SERIAL,
      .props = no_props,
      .names = " nr name chardev " },
    { .name = "ich9-intel-hda", .parent = "pci-device", .bus = BUS_PCI,
      .provides = BUS_HDA, .n_buses = 1,
      .props = pci_props,
      .names = " old_msi_addr msi debug " },
    { .name = "intel-hda", .parent = "pci-device", .bus = BUS_PCI,
      .provides = BUS_HDA, .n_buses = 1,
      .props = pci_props,
      .names = " old_msi_addr msi debug " },
    { .name = "ich9-usb-ehci1", .parent = "pci-device", .bus = BUS_PCI,
      .provides = BUS_USB, .n_buses = 1,
      .props = pci_props,
      .names = " maxframes ports[0] ehci[0] capabilities[0] operational[0] " },
    { .name = "ich9-usb-uhci1", .parent = "pci-device", .bus = BUS_PCI,
      .provides = BUS_USB, .n_buses = 1,
      .props = pci_props,
      .names = " maxframes firstport masterbus bandwidth " },
    { .name = "ich9-usb-uhci2", .parent = "pci-device", .bus = BUS_PCI,
      .provides = BUS_USB, .n_buses = 1,
      .props = pci_props,
      .names = " maxframes firstport masterbus bandwidth " },
    { .name = "ich9-usb-uhci3", .parent = "pci-device", .bus = BUS_PCI,
      .provides = BUS_USB, .n_buses = 1,
      .props = pci_props,
      .names = " maxframes firstport masterbus bandwidth " },
    { .name = "nec-usb-xhci", .parent = "pci-device", .bus = BUS_PCI,
      .provides = BUS_USB, .n_buses = 1,
      .props = pci_props,
      .names = " msi msix force-pcie-endcap superspeed-ports-first intrs slots "
        "host p3 streams p2 xhci-core " },
    { .name = "piix3-usb-uhci", .parent = "pci-device", .bus = BUS_PCI,
      .provides = BUS_USB, .n_buses = 1,
      .props = pci_props,
      .names = " maxframes bandwidth " },
    { .name = "qemu-xhci", .parent = "pci-device", .bus = BUS_PCI,
      .provides = BUS_USB, .n_buses = 1,
      .props = pci_props,
      .names = " host p3 streams p2 xhci-core " },
    { .name = "virtio-serial-pci", .parent = "virtio-pci", .bus = BUS_PCI,
      .provides = BUS_VIRTIO_SERIAL, .n_buses = 1,
      .props = pci_props,
      .names = VIRTIO_NAMES " "
        "class max_ports emergency-write " },
    { .name = "ich9-ahci", .parent = "pci-device", .bus = BUS_PCI,
      .provides = BUS_IDE, .n_buses = 6,
      .props = pci_props,
      .names = " ahci[0] ahci-idp[0] " },
    { .name = "i82801b11-bridge", .parent = "base-pci-bridge", .bus = BUS_PCI,
      .provides = BUS_PCI, .n_buses = 1,
      .props = pci_props,
      .names = " " },
    { .name = "ioh3420", .parent = "pcie-root-port-base", .bus = BUS_PCI,
      .provides = BUS_PCI, .n_buses = 1,
      .props = pci_props,
      .names = " port aer_log_max hotplug x-native-hotplug slot chassis "
        "power_controller_present disable-acs " },
    { .name = "pcie-pci-bridge", .parent = "base-pci-bridge", .bus = BUS_PCI,
      .provides = BUS_PCI, .n_buses = 1,
      .props = pci_props,
      .names = " msi " },
    { NULL },
};
