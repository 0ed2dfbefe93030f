/* SPDX-License-Identifier: MIT */
/*
 * Disks: a front end and its backend.
 *
 * A drive is named (by -drive, with what goes with it) or is a node, for
 * which an anonymous backend is made.  Nothing is read from the medium.
 */
#include <string.h>
#include "base/control.h"
#include "blockjobs/job.h"
#include "qapi/qapi-commands.h"
#include "server/machine/device-priv.h"

enum { DEFAULT_BLOCK_BYTES = 512 };

static BlockdevOnError on_error_value(const struct device *d,
                                      const char *name)
{
    int value = BLOCKDEV_ON_ERROR_AUTO;

    BlockdevOnError_parse(device_get_string(d, name),
                          (BlockdevOnError *)&value);
    return value;
}

/* rerror, werror, write-cache: the device's word counts more. */
static void apply_policy(struct device *d)
{
    const char *cache = device_get_string(d, "write-cache");

    if (device_type_prop(d->type, "rerror") &&
        (on_error_value(d, "rerror") != BLOCKDEV_ON_ERROR_AUTO ||
         on_error_value(d, "werror") != BLOCKDEV_ON_ERROR_AUTO)) {
        backend_set_on_error(d->backend, on_error_value(d, "rerror"),
                             on_error_value(d, "werror"));
    }
    if (*cache && strcmp(cache, "auto")) {
        backend_set_writethrough(d->backend, !strcmp(cache, "off"));
    }
}

static bool check_block_sizes(const struct device *d, struct error **errp)
{
    int64_t logical = device_get_int(d, "logical_block_size");
    int64_t physical = device_get_int(d, "physical_block_size");

    if (logical > (physical ? physical : DEFAULT_BLOCK_BYTES)) {
        error_set(errp,
                  "logical_block_size > physical_block_size not supported");
        return false;
    }
    if (device_was_told(d, "num-queues") &&
        device_get_int(d, "num-queues") == 0) {
        error_set(errp, "num-queues property must be larger than 0");
        return false;
    }
    return true;
}

/* What it is where nobody said: as it tells those who ask. */
static void settle(struct device *d)
{
    static const char *const sizes[] = {
        "logical_block_size", "physical_block_size",
    };
    bool cd = d->type->role == DEVICE_CD;

    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        if (device_get_int(d, sizes[i]) == 0) {
            device_set_int(d, sizes[i], DEFAULT_BLOCK_BYTES);
        }
    }
    if (device_type_prop(d->type, "ver") && !device_was_told(d, "ver")) {
        device_set_string(d, "ver", "2.5+");
    }
    if (device_type_prop(d->type, "vendor") &&
        !device_was_told(d, "vendor")) {
        device_set_string(d, "vendor", "QEMU");
    }
    if (device_type_prop(d->type, "product") &&
        !device_was_told(d, "product")) {
        device_set_string(d, "product", cd ? "QEMU CD-ROM"
                          : "QEMU HARDDISK");
    }
}

/* ---- iothreads ---------------------------------------------------------- */

/* Its own, or its controller's; NULL: the main loop. */
static const char *iothread_of(const struct device *d)
{
    while (d && !d->iothread) {
        d = d->bus && d->bus->kind == BUS_SCSI ? d->bus->owner : NULL;
    }
    return d ? d->iothread->id : NULL;
}

static struct node *claimed_node(const struct iothread_claim *claim)
{
    const struct device *d = (const struct device *)
        ((const char *)claim - G_STRUCT_OFFSET(struct device, claim));

    return d->backend ? backend_node(d->backend) : NULL;
}

static bool check_iothread(struct device *d, const struct node *n,
                           struct error **errp)
{
    return !n || iothread_claim_check(n, iothread_of(d), &d->claim, errp);
}

/* ---- attaching ---------------------------------------------------------- */

/* What it takes of the graph. */
static void choose_perm(const struct device *d, bool read_only,
                        unsigned *perm, unsigned *shared)
{
    *perm = PERM_CONSISTENT_READ;
    *shared = PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED;
    if (d->type->role != DEVICE_CD) {
        *perm |= read_only ? 0 : PERM_WRITE;
        *shared |= PERM_RESIZE;
    }
    if (device_get_bool(d, "share-rw")) {
        *shared |= PERM_WRITE;
    }
}

static bool is_read_only(const struct device *d, const struct backend *b)
{
    const struct node *n = backend_node(b);

    return n ? node_is_read_only(n) : backend_read_only_wanted(b);
}

static bool check_medium(const struct device *d, const struct backend *b,
                         struct error **errp)
{
    if (d->type->role == DEVICE_DISK && !backend_node(b)) {
        error_set(errp, "Device needs media, but drive is empty");
        return false;
    }
    if (d->type->role == DEVICE_DISK && d->type->bus == BUS_IDE &&
        is_read_only(d, b)) {
        error_set(errp, "Block node is read-only");
        return false;
    }
    return true;
}

bool device_disk_attach(struct device *d, struct backend *b,
                        struct error **errp)
{
    unsigned perm, shared;

    if (!check_block_sizes(d, errp) || !check_medium(d, b, errp) ||
        !check_iothread(d, backend_node(b), errp)) {
        return false;
    }
    d->dev = (struct backend_dev){
        .id = d->id,
        .path = d->path,
        .qdev = d->qdev,
        .removable = d->type->role != DEVICE_DISK ||
            device_get_bool(d, "removable"),
        .has_tray = d->type->role == DEVICE_CD,
    };
    choose_perm(d, is_read_only(d, b), &perm, &shared);
    if (!backend_attach_dev(b, &d->dev, perm, shared, errp)) {
        return false;
    }
    settle(d);
    d->backend = backend_ref(b);
    d->claim.iothread = iothread_of(d);
    d->claim.node = claimed_node;
    iothread_claim_add(&d->claim);
    apply_policy(d);
    return true;
}

/* ---- the drive ---------------------------------------------------------- */

static struct backend *new_anonymous(struct error **errp)
{
    return backend_new(&(struct backend_options){
        .on_read_error = BLOCKDEV_ON_ERROR_AUTO,
        .on_write_error = BLOCKDEV_ON_ERROR_AUTO,
    }, errp);
}

static struct backend *from_node(struct node *n, struct error **errp)
{
    struct backend *b = new_anonymous(errp);

    if (b && !backend_insert(b, n, errp)) {
        backend_unref(b);
        return NULL;
    }
    return b;
}

/* With a reference. */
static struct backend *find_drive(const struct device *d, struct error **errp)
{
    const char *drive = device_get_string(d, "drive");
    struct backend *b;
    struct node *n;

    if (!*drive) {
        if (d->type->role != DEVICE_DISK) {
            return new_anonymous(errp);
        }
        error_set(errp, "drive property not set");
        return NULL;
    }
    b = backend_find(drive);
    if (b && backend_dev(b)) {
        error_set(errp, "Drive '%s' is already in use by another device",
                  drive);
        return NULL;
    }
    if (b) {
        return backend_ref(b);
    }
    n = node_find(drive);
    if (!n) {
        error_set(errp, "Property '%s.drive' can't find value '%s'",
                  device_prop_owner(d->type, "drive"), drive);
        return NULL;
    }
    return from_node(n, errp);
}

bool device_disk_realize(struct device *d, struct error **errp)
{
    struct backend *b = find_drive(d, errp);
    bool ok = b && device_disk_attach(d, b, errp);

    if (b) {
        backend_unref(b);       /* yields if it goes */
    }
    return ok;
}

/* ---- taking out --------------------------------------------------------- */

static bool job_is_on(const struct job *job, struct node *n)
{
    struct node *below = node_skip_implicit_filters(n);

    for (GSList *l = job->roots; l; l = l->next) {
        const struct node *at = root_node(l->data);

        if (at == n || at == below) {
            return true;
        }
    }
    return false;
}

/* A drive that goes takes its jobs with it. */
static void cancel_jobs(const struct backend *b)
{
    g_autoptr(strList) ids = strList_new0();

    for (struct job *job = job_next(NULL); job; job = job_next(job)) {
        if (job_is_on(job, backend_node(b))) {
            qapi_list_append(ids, g_strdup(job->id));
        }
    }
    for (size_t i = 0; i < ids->n; i++) {
        /* One that has ended by itself, or is about to, is as good. */
        qmp_block_job_cancel(&(BlockJobCancelArgs){ .device = ids->v[i] },
                             NULL);
    }
}

void device_disk_unrealize(struct device *d)
{
    struct backend *b = d->backend;

    if (!b) {
        return;
    }
    d->backend = NULL;
    iothread_claim_remove(&d->claim);
    if (*backend_name(b) && backend_node(b)) {
        cancel_jobs(b);
    }
    backend_detach_dev(b);
    backend_unref(b);
}

/* ---- qom-set drive ------------------------------------------------------ */

bool device_disk_set_drive(struct device *d, const char *node_name,
                           struct error **errp)
{
    struct node *n = node_lookup(NULL, node_name, errp);
    struct backend *b;
    bool ok;

    if (!n || !check_iothread(d, n, errp)) {
        return false;
    }
    if (backend_node(d->backend) == n) {
        return true;
    }
    b = backend_ref(d->backend);    /* D may go while it waits */
    ok = backend_node(b) ? backend_replace(b, n, errp)
        : backend_insert(b, n, errp);
    backend_unref(b);
    return ok;
}

const char *device_disk_drive(const struct device *d)
{
    const struct node *n;

    if (!d->backend) {
        return "";              /* it is being taken out */
    }
    n = backend_node(d->backend);
    return *backend_name(d->backend) ? backend_name(d->backend)
        : n ? node_name(n) : "";
}
