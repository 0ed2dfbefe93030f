/* SPDX-License-Identifier: MIT */
/*
 * Handshake: fixed newstyle, from the greeting to the transmission phase.
 *
 * Straight-line code in the connection's thread; every wait ends at
 * c->deadline_ns.  What a client sends is checked against the option's
 * length; a bad option gets an error reply and the haggling goes on, a bad
 * frame ends the connection.
 */
#include "nbd/conn.h"

#include <inttypes.h>
#include <string.h>
#include "base/trace.h"
#include "nbd/handshake.h"
#include "nbd/server.h"
#include "nbd/tls.h"

enum {
    /* Longest option we look at, and longest we skip with an error. */
    OPTION_MAX_BYTES = 64 << 10,
    OPTION_SKIP_MAX_BYTES = NBD_MAX_PAYLOAD_BYTES,
    /* As QEMU: longer names are cut in messages. */
    NAME_IN_MESSAGE = 80,
};

/* ---- replies ------------------------------------------------------------ */

void nbd_option_reply(struct nbd_conn *c, const struct nbd_option *o,
                      uint32_t rep, const struct iovec *payload,
                      int n_payload)
{
    struct nbd_wire_option_reply head = {
        .magic = GUINT64_TO_BE(NBD_OPTION_REPLY_MAGIC),
        .option = GUINT32_TO_BE(o->option),
        .rep = GUINT32_TO_BE(rep),
    };
    size_t length = 0;

    for (int i = 0; i < n_payload; i++) {
        length += payload[i].iov_len;
    }
    head.length = GUINT32_TO_BE(length);
    g_byte_array_append(c->replies, (void *)&head, sizeof(head));
    for (int i = 0; i < n_payload; i++) {
        g_byte_array_append(c->replies, payload[i].iov_base,
                            payload[i].iov_len);
    }
    trace(NBD, "option-reply fd=%d option=%s rep=%s", c->fd,
          nbd_option_name(o->option), nbd_rep_name(rep));
}

enum nbd_next nbd_option_ack(struct nbd_conn *c, const struct nbd_option *o)
{
    nbd_option_reply(c, o, NBD_REP_ACK, NULL, 0);
    return NBD_NEXT_OPTION;
}

enum nbd_next nbd_option_refuse(struct nbd_conn *c, const struct nbd_option *o,
                                uint32_t rep, const char *fmt, ...)
{
    g_autofree char *text = NULL;
    struct iovec payload;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    payload = (struct iovec){ text, MIN(strlen(text), NBD_MAX_STRING) };
    nbd_option_reply(c, o, rep, &payload, 1);
    return NBD_NEXT_OPTION;
}

enum nbd_next nbd_option_refuse_length(struct nbd_conn *c,
                                       const struct nbd_option *o)
{
    return nbd_option_refuse(c, o, NBD_REP_ERR_INVALID,
                             "option '%s' has invalid length",
                             nbd_option_name(o->option));
}

enum nbd_next nbd_option_refuse_export(struct nbd_conn *c,
                                       const struct nbd_option *o,
                                       const char *name)
{
    bool cut = strlen(name) >= NAME_IN_MESSAGE;

    return nbd_option_refuse(c, o, NBD_REP_ERR_UNKNOWN,
                             "export '%.*s%s' not present", NAME_IN_MESSAGE,
                             name, cut ? "..." : "");
}

/* ---- parsing ------------------------------------------------------------ */

bool nbd_option_get16(struct nbd_option *o, uint16_t *value)
{
    if (o->length - o->pos < sizeof(*value)) {
        return false;
    }
    *value = nbd_get16(o->data + o->pos);
    o->pos += sizeof(*value);
    return true;
}

bool nbd_option_get32(struct nbd_option *o, uint32_t *value)
{
    if (o->length - o->pos < sizeof(*value)) {
        return false;
    }
    *value = nbd_get32(o->data + o->pos);
    o->pos += sizeof(*value);
    return true;
}

char *nbd_option_get_string(struct nbd_option *o)
{
    uint32_t length;
    char *text;

    if (!nbd_option_get32(o, &length) || length > o->length - o->pos ||
        length > NBD_MAX_STRING ||
        (length > 0 && memchr(o->data + o->pos, '\0', length))) {
        return NULL;
    }
    text = g_strndup((const char *)o->data + o->pos, length);
    o->pos += length;
    return text;
}

/* ---- options ------------------------------------------------------------ */

/* The client goes on with E (reference taken).  False: E is closing. */
static bool take_export(struct nbd_conn *c, struct nbd_export *e)
{
    if (c->contexts.export_serial != e->serial) {
        nbd_contexts_reset(&c->contexts);
    }
    if (!nbd_export_attach(e, c)) {
        nbd_export_put(&e);
        return false;
    }
    return true;
}

static enum nbd_next option_export_name(struct nbd_conn *c,
                                        struct nbd_option *o)
{
    g_autofree char *name = g_strndup((const char *)o->data, o->length);
    struct nbd_wire_export_name_reply reply = { 0 };
    size_t length = sizeof(reply);
    struct nbd_export *e = NULL;

    if (!c->extended && o->length <= NBD_MAX_STRING &&
        strlen(name) == o->length) {
        e = nbd_export_get(c->server, name);
    }
    if (!e || !take_export(c, e)) {     /* this option cannot say why */
        return NBD_NEXT_CLOSE;
    }
    reply.size = GINT64_TO_BE(nbd_export_length(e));
    reply.flags = GUINT16_TO_BE(nbd_export_flags(e, c));
    if (c->no_zeroes) {
        length = G_STRUCT_OFFSET(struct nbd_wire_export_name_reply, zeroes);
    }
    g_byte_array_append(c->replies, (void *)&reply, length);
    return NBD_NEXT_TRANSMISSION;
}

static enum nbd_next option_abort(struct nbd_conn *c, struct nbd_option *o)
{
    nbd_option_ack(c, o);
    return NBD_NEXT_CLOSE;
}

static void reply_list_entry(struct nbd_conn *c, const struct nbd_option *o,
                            const struct nbd_export *e)
{
    uint32_t name_length = GUINT32_TO_BE(strlen(e->name));
    const char *description = e->description ? e->description : "";
    struct iovec payload[] = {
        { &name_length, sizeof(name_length) },
        { e->name, strlen(e->name) },
        { (char *)description, strlen(description) },
    };

    nbd_option_reply(c, o, NBD_REP_SERVER, payload, G_N_ELEMENTS(payload));
}

static enum nbd_next option_list(struct nbd_conn *c, struct nbd_option *o)
{
    g_autofree struct nbd_export **all = NULL;

    if (o->length > 0) {
        return nbd_option_refuse_length(c, o);
    }
    all = nbd_export_get_all(c->server);
    for (struct nbd_export **e = all; *e; e++) {
        reply_list_entry(c, o, *e);
        nbd_export_put(e);
    }
    return nbd_option_ack(c, o);
}

static enum nbd_next option_starttls(struct nbd_conn *c, struct nbd_option *o)
{
    if (o->length > 0) {
        return nbd_option_refuse_length(c, o);
    }
    if (!c->server->tls_creds) {
        return nbd_option_refuse(c, o, NBD_REP_ERR_POLICY,
                                 "TLS not configured");
    }
    if (c->tls) {
        return nbd_option_refuse(c, o, NBD_REP_ERR_INVALID,
                                 "TLS already enabled");
    }
    nbd_option_ack(c, o);
    return NBD_NEXT_TLS;
}

/* Before TLS, where it must be: what may not be said in the open. */
static bool needs_tls(const struct nbd_conn *c, uint32_t option)
{
    return c->server->tls_creds && !c->tls && option != NBD_OPT_STARTTLS &&
        option != NBD_OPT_ABORT;
}

/* Nothing of it is looked at. */
static enum nbd_next option_before_tls(struct nbd_conn *c,
                                       const struct nbd_option *o)
{
    if (o->option == NBD_OPT_EXPORT_NAME ||
        o->length > OPTION_SKIP_MAX_BYTES || !nbd_conn_discard(c, o->length)) {
        return NBD_NEXT_CLOSE;
    }
    return nbd_option_refuse(c, o, NBD_REP_ERR_TLS_REQD,
                             "Option 0x%x not permitted before TLS",
                             o->option);
}

static enum nbd_next option_structured_reply(struct nbd_conn *c,
                                             struct nbd_option *o)
{
    if (o->length > 0) {
        return nbd_option_refuse_length(c, o);
    }
    if (c->structured) {
        return nbd_option_refuse(c, o, NBD_REP_ERR_INVALID,
                                 "structured reply already negotiated");
    }
    c->structured = true;
    return nbd_option_ack(c, o);
}

/* They imply structured replies.  Contexts stay as they were selected. */
static enum nbd_next option_extended_headers(struct nbd_conn *c,
                                             struct nbd_option *o)
{
    if (o->length > 0) {
        return nbd_option_refuse_length(c, o);
    }
    if (c->extended) {
        return nbd_option_refuse(c, o, NBD_REP_ERR_INVALID,
                                 "extended headers already negotiated");
    }
    c->structured = c->extended = true;
    return nbd_option_ack(c, o);
}

/* NBD_INFO_NAME or NBD_INFO_DESCRIPTION. */
static void reply_info_text(struct nbd_conn *c, const struct nbd_option *o,
                            uint16_t info, const char *text)
{
    uint16_t info_be = GUINT16_TO_BE(info);
    struct iovec payload[] = {
        { &info_be, sizeof(info_be) }, { (char *)text, strlen(text) },
    };

    nbd_option_reply(c, o, NBD_REP_INFO, payload, 2);
}

static void reply_info_numbers(struct nbd_conn *c, const struct nbd_option *o,
                               const struct nbd_export *e)
{
    struct nbd_wire_info_block_size sizes = {
        .info = GUINT16_TO_BE(NBD_INFO_BLOCK_SIZE),
        .minimum = GUINT32_TO_BE(1),
        .preferred = GUINT32_TO_BE(NBD_PREFERRED_BLOCK_BYTES),
        .maximum = GUINT32_TO_BE(NBD_MAX_PAYLOAD_BYTES),
    };
    struct nbd_wire_info_export export = {
        .info = GUINT16_TO_BE(NBD_INFO_EXPORT),
        .size = GINT64_TO_BE(nbd_export_length(e)),
        .flags = GUINT16_TO_BE(nbd_export_flags(e, c)),
    };
    struct iovec sizes_iov = { &sizes, sizeof(sizes) };
    struct iovec export_iov = { &export, sizeof(export) };

    nbd_option_reply(c, o, NBD_REP_INFO, &sizes_iov, 1);
    nbd_option_reply(c, o, NBD_REP_INFO, &export_iov, 1);
}

/* What INFO and GO ask for: export, number of infos, infos. */
static char *parse_info(struct nbd_option *o, bool *want_name,
                        bool *want_description)
{
    g_autofree char *name = nbd_option_get_string(o);
    uint16_t n, info;

    if (!name || !nbd_option_get16(o, &n) ||
        o->length - o->pos != n * sizeof(info)) {
        return NULL;
    }
    while (nbd_option_get16(o, &info)) {
        *want_name |= info == NBD_INFO_NAME;
        *want_description |= info == NBD_INFO_DESCRIPTION;
    }
    return g_steal_pointer(&name);
}

static enum nbd_next option_info_or_go(struct nbd_conn *c,
                                       struct nbd_option *o)
{
    bool want_name = false, want_description = false;
    g_autofree char *name = parse_info(o, &want_name, &want_description);
    struct nbd_export *e;

    if (!name) {
        return nbd_option_refuse_length(c, o);
    }
    e = nbd_export_get(c->server, name);
    if (!e || (o->option == NBD_OPT_GO && !take_export(c, e))) {
        return nbd_option_refuse_export(c, o, name);
    }
    if (want_name) {
        reply_info_text(c, o, NBD_INFO_NAME, e->name);
    }
    if (want_description && e->description) {
        reply_info_text(c, o, NBD_INFO_DESCRIPTION, e->description);
    }
    reply_info_numbers(c, o, e);
    nbd_option_ack(c, o);
    if (o->option == NBD_OPT_GO) {
        return NBD_NEXT_TRANSMISSION;
    }
    nbd_export_put(&e);
    return NBD_NEXT_OPTION;
}

typedef enum nbd_next option_fn(struct nbd_conn *c, struct nbd_option *o);

static const struct {
    uint32_t option;
    option_fn *fn;
} option_table[] = {
    { NBD_OPT_EXPORT_NAME, option_export_name },
    { NBD_OPT_ABORT, option_abort },
    { NBD_OPT_LIST, option_list },
    { NBD_OPT_STARTTLS, option_starttls },
    { NBD_OPT_INFO, option_info_or_go },
    { NBD_OPT_GO, option_info_or_go },
    { NBD_OPT_STRUCTURED_REPLY, option_structured_reply },
    { NBD_OPT_LIST_META_CONTEXT, nbd_option_list_contexts },
    { NBD_OPT_SET_META_CONTEXT, nbd_option_set_contexts },
    { NBD_OPT_EXTENDED_HEADERS, option_extended_headers },
};

static option_fn *option_find(uint32_t option)
{
    for (size_t i = 0; i < G_N_ELEMENTS(option_table); i++) {
        if (option_table[i].option == option) {
            return option_table[i].fn;
        }
    }
    return NULL;
}

/* Too long or unknown: skip what belongs to it and say so. */
static enum nbd_next option_skip(struct nbd_conn *c, struct nbd_option *o,
                                 bool known)
{
    if (o->option == NBD_OPT_EXPORT_NAME ||
        o->length > OPTION_SKIP_MAX_BYTES || !nbd_conn_discard(c, o->length)) {
        return NBD_NEXT_CLOSE;
    }
    if (known) {
        return nbd_option_refuse(c, o, NBD_REP_ERR_TOO_BIG,
                                 "option '%s' is too long",
                                 nbd_option_name(o->option));
    }
    return nbd_option_refuse(c, o, NBD_REP_ERR_UNSUP,
                             "Unsupported option %" PRIu32 " (%s)", o->option,
                             nbd_option_name(o->option));
}

/* One option: all replies to it are in c->replies afterwards. */
static enum nbd_next option_receive(struct nbd_conn *c)
{
    struct nbd_wire_option head;
    g_autofree uint8_t *data = NULL;
    struct nbd_option o = { 0 };
    option_fn *fn;

    if (!nbd_conn_recv(c, &head, sizeof(head)) ||
        GUINT64_FROM_BE(head.magic) != NBD_OPTION_MAGIC) {
        return NBD_NEXT_CLOSE;
    }
    o.option = GUINT32_FROM_BE(head.option);
    o.length = GUINT32_FROM_BE(head.length);
    trace(NBD, "option fd=%d option=%s length=%u", c->fd,
          nbd_option_name(o.option), o.length);
    if (!c->fixed_newstyle && o.option != NBD_OPT_EXPORT_NAME) {
        return NBD_NEXT_CLOSE;      /* could not read our reply */
    }
    if (needs_tls(c, o.option)) {
        return option_before_tls(c, &o);
    }
    fn = option_find(o.option);
    if (!fn || o.length > OPTION_MAX_BYTES) {
        return option_skip(c, &o, fn != NULL);
    }
    o.data = data = g_malloc(o.length + 1);
    return nbd_conn_recv(c, data, o.length) ? fn(c, &o) : NBD_NEXT_CLOSE;
}

bool nbd_handshake(struct nbd_conn *c)
{
    struct nbd_wire_greeting greeting = {
        .init_magic = GUINT64_TO_BE(NBD_INIT_MAGIC),
        .option_magic = GUINT64_TO_BE(NBD_OPTION_MAGIC),
        .flags = GUINT16_TO_BE(NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES),
    };
    struct iovec iov = { &greeting, sizeof(greeting) };
    enum nbd_next next;
    uint32_t flags;

    if (!nbd_conn_send(c, &iov, 1) ||
        !nbd_conn_recv(c, &flags, sizeof(flags))) {
        return false;
    }
    flags = GUINT32_FROM_BE(flags);
    if (flags & ~(uint32_t)(NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES)) {
        trace(NBD, "client-flags-unknown fd=%d flags=%#x", c->fd, flags);
        return false;
    }
    c->fixed_newstyle = flags & NBD_FIXED_NEWSTYLE;
    c->no_zeroes = flags & NBD_NO_ZEROES;
    do {
        next = option_receive(c);
        iov = (struct iovec){ c->replies->data, c->replies->len };
        if (iov.iov_len > 0 && !nbd_conn_send(c, &iov, 1)) {
            return false;
        }
        g_byte_array_set_size(c->replies, 0);
        if (next == NBD_NEXT_TLS && !nbd_tls_start(c)) {
            return false;
        }
    } while (next == NBD_NEXT_OPTION || next == NBD_NEXT_TLS);
    return next == NBD_NEXT_TRANSMISSION;
}
