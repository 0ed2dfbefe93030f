/* SPDX-License-Identifier: MIT */
/* Write thresholds: see write-threshold.h. */
#include "block/write-threshold.h"

#include "base/control.h"
#include "base/late.h"
#include "qapi/qapi-events.h"

struct crossing {
    char *node_name;            /* owned */
    uint64_t threshold, amount_exceeded;
};

void write_threshold_set(struct node *n, uint64_t threshold)
{
    control_assert();
    atomic_store(&n->write_threshold, threshold);
}

uint64_t write_threshold_get(const struct node *n)
{
    return atomic_load(&n->write_threshold);
}

static void send_task(void *opaque)
{
    struct crossing *x = opaque;

    {
        CONTROL_GUARD();
        qapi_event_send_block_write_threshold(x->node_name,
                                              x->amount_exceeded,
                                              x->threshold);
    }
    g_free(x->node_name);
    g_free(x);
}

/* A request may not wait for the control lock: a worker sends. */
void write_threshold_crossed(struct node *n, int64_t end)
{
    uint64_t threshold = atomic_load(&n->write_threshold);
    struct crossing *x;

    /* Of several requests beyond it one tells. */
    do {
        if (!threshold || (uint64_t)end <= threshold) {
            return;
        }
    } while (!atomic_compare_exchange_weak(&n->write_threshold, &threshold,
                                           0));
    x = g_new(struct crossing, 1);
    *x = (struct crossing){
        .node_name = g_strdup(n->name), .threshold = threshold,
        .amount_exceeded = (uint64_t)end - threshold,
    };
    late_submit(send_task, x);
}
