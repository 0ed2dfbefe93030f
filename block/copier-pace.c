/* SPDX-License-Identifier: MIT */
/* Pace: see copier-pace.h. */
#include "block/copier-pace.h"

enum {
    MS = 1000 * 1000,
    POLITE_NS = 1000 * MS,      /* a guest that waited is remembered */
    PATIENCE_NS = 2 * MS,       /* a wait that a guest does not mind */
    SHORT_NS = 1 * MS,          /* ...nor if it is so on average */
    POLITE_QUEUE_NS = 5 * MS,   /* what may queue at the target */
    QUEUE_NS = 50 * MS,         /* ...when no guest waits */
    HELD_NS = 100 * MS,         /* I1 */
    WINDOW_NS = 20 * MS,        /* of one measurement */
    PIECES = 4,                 /* in flight, at least, if they can be small */
    SHARE = 2,                  /* part of the rate that the background gets
                                   beside guests: one in so many */
    GAP_NS = MS / 2,            /* after which a guest will not come again */

    FIRST_DEPTH = 4,
    MAX_DEPTH = 64,
    SLOW_NS = 2 * MS,           /* answers for which more are tried */
    TRIAL_NS = 30 * MS,         /* of a trial, at least */
    TRIAL_PAUSE_NS = 2000 * MS, /* after one that did not help */
};

static const double worth_more = 1.1, worth_fewer = 0.95;

void pace_init(struct pace *p, int64_t unit_bytes)
{
    *p = (struct pace){ .unit_bytes = unit_bytes, .depth = FIRST_DEPTH,
                         .best_ns = INT64_MAX,
                         .trial.next = PACE_MORE };
    lock_init(&p->lock, "pace", LOCK_COPIER);
    cond_init(&p->changed);
}

void pace_deinit(struct pace *p)
{
    g_assert(p->n_background == 0 && p->n_guests == 0);
    cond_deinit(&p->changed);
    lock_deinit(&p->lock);
}

/* ---- how much: lock held ------------------------------------------------ */

static bool is_polite(struct pace *p, int64_t now)
{
    if (p->n_guests == 0 && now - p->guest_left_ns > POLITE_NS) {
        p->guest_suffered = false;
    }
    return p->guest_suffered;
}

/* Most bytes in flight. */
static int64_t bound(struct pace *p, int64_t now)
{
    int64_t queue_ns = is_polite(p, now) ? POLITE_QUEUE_NS : QUEUE_NS;

    if (p->rate == 0) {
        return INT64_MAX;
    }
    return MAX(p->rate * ((p->best_ns + queue_ns) / 1e9), p->unit_bytes);
}

static int64_t piece(struct pace *p, int64_t now, int64_t bytes)
{
    int64_t small = MAX(bound(p, now) / PIECES, p->unit_bytes);

    return MIN(bytes, small & -p->unit_bytes);
}

static bool guests_are_here(const struct pace *p, int64_t now)
{
    return p->n_guests > 0 || now - p->guest_left_ns < GAP_NS;
}

/* The background's part of what the target gets done. */
static void add_share(struct pace *p, int64_t now)
{
    p->share_bytes += p->rate / SHARE * (now - p->share_ns) / 1e9;
    p->share_bytes = MIN(p->share_bytes, p->unit_bytes);
    p->share_ns = now;
}

/* Guests go first: what the background begins now, they would wait for.  A
 * piece is begun when the share has paid for the one before. */
static bool is_held_back(struct pace *p, int64_t now)
{
    add_share(p, now);
    return guests_are_here(p, now) && is_polite(p, now) &&
           p->guest_wait_ns > SHORT_NS && p->share_bytes < 0;
}

/* When to look again if nothing is signalled. */
static int64_t next_look(struct pace *p, int64_t now, int64_t deadline_ns)
{
    int64_t at = deadline_ns;

    if (p->begun_ns + HELD_NS > now) {
        at = MIN(at, p->begun_ns + HELD_NS);
    }
    if (p->share_bytes < 0 && p->rate > 0) {
        at = MIN(at, now + (int64_t)(-p->share_bytes * 1e9 * SHARE / p->rate) +
                     MS / 10);
    }
    if (p->n_guests == 0 && now - p->guest_left_ns < GAP_NS) {
        at = MIN(at, p->guest_left_ns + GAP_NS);
    }
    return at;
}

static bool may_begin(struct pace *p, int64_t now, int64_t bytes)
{
    if (p->n_background == 0 && now - p->begun_ns >= HELD_NS) {
        return true;                                    /* I1 */
    }
    return p->n_background < p->depth && !is_held_back(p, now) &&
           (p->n_background == 0 ||
            p->background_bytes + bytes <= bound(p, now));
}

/* ---- the background ----------------------------------------------------- */

enum pace_answer pace_begin(struct pace *p, struct pace_ticket *t,
                            int64_t *bytes, int64_t deadline_ns)
{
    int64_t most = *bytes, now = clock_ns();

    LOCK_GUARD(&p->lock);
    for (;;) {
        *bytes = piece(p, now, most);
        if (may_begin(p, now, *bytes)) {
            break;
        }
        if (p->n_waiting > 0 || p->n_background >= p->depth) {
            return PACE_ENOUGH;
        }
        if (now >= deadline_ns) {
            return PACE_WAIT;
        }
        p->n_waiting++;
        cond_wait_until(&p->changed, &p->lock,
                        next_look(p, now, deadline_ns));
        p->n_waiting--;
        now = clock_ns();
    }
    if (guests_are_here(p, now)) {
        p->share_bytes -= *bytes;
    }
    if (p->n_background++ == 0) {
        p->busy_since_ns = now;
    }
    p->depth_reached |= p->n_background == p->depth;
    p->background_bytes += *bytes;
    p->begun_ns = now;
    t->begun_ns = now;
    t->bytes = *bytes;
    return PACE_GO;
}

/* ---- how many at once: lock held ---------------------------------------- */

static void set_depth(struct pace *p, int depth)
{
    p->depth = CLAMP(depth, FIRST_DEPTH, MAX_DEPTH);
    p->trial.ns = p->trial.bytes = p->trial.answers_ns = 0;
    p->trial.n_answers = 0;
}

static void begin_trial(struct pace *p, int state, double rate)
{
    int depth = state == PACE_MORE ? p->depth + p->depth / 2
                                   : p->depth - p->depth / 3;

    p->trial.state = state;
    p->trial.depth = p->depth;
    p->trial.rate = rate;
    set_depth(p, depth);
    if (p->depth == p->trial.depth) {
        p->trial.state = PACE_STEADY;
        p->trial.next = state == PACE_MORE ? PACE_FEWER : PACE_MORE;
        p->trial.next_ns = clock_ns() + TRIAL_PAUSE_NS;
    }
}

static void judge_trial(struct pace *p, double rate, int64_t now)
{
    struct pace_trial *t = &p->trial;
    bool more = t->state == PACE_MORE;

    if (rate > t->rate * (more ? worth_more : worth_fewer)) {
        begin_trial(p, t->state, rate);
        return;
    }
    t->next = more ? PACE_FEWER : PACE_MORE;
    t->state = PACE_STEADY;
    t->next_ns = now + TRIAL_PAUSE_NS;
    set_depth(p, t->depth);
}

/* A window is over. */
static void look_at_depth(struct pace *p, int64_t now)
{
    struct pace_trial *t = &p->trial;
    double rate;

    if (!p->depth_reached) {
        return;
    }
    t->ns += p->window_ns;
    t->bytes += p->window_bytes;
    t->answers_ns += p->window_answers_ns;
    t->n_answers += p->n_window_answers;
    if (t->ns < TRIAL_NS || t->n_answers < 2 * p->depth) {
        return;
    }
    rate = t->bytes * 1e9 / t->ns;
    if (t->state != PACE_STEADY) {
        judge_trial(p, rate, now);
    } else if (now >= t->next_ns && (t->next == PACE_FEWER ||
                                     t->answers_ns / t->n_answers > SLOW_NS)) {
        begin_trial(p, t->next, rate);
    } else {
        set_depth(p, p->depth);
    }
}

/* What the target gets done while it has something to do. */
static void measure(struct pace *p, int64_t now)
{
    double rate;

    p->window_ns += now - p->busy_since_ns;
    p->busy_ns += now - p->busy_since_ns;
    p->busy_since_ns = now;
    if (p->window_ns < WINDOW_NS) {
        return;
    }
    rate = p->window_bytes * 1e9 / p->window_ns;
    p->rate = p->rate == 0 ? rate
              : rate < p->rate ? (p->rate + rate) / 2
              : (p->rate * 3 + rate) / 4;
    look_at_depth(p, now);
    p->depth_reached = p->n_background >= p->depth;
    p->window_ns = p->window_bytes = p->window_answers_ns = 0;
    p->n_window_answers = 0;
}

/* ---- after a copy ------------------------------------------------------- */

void pace_end(struct pace *p, const struct pace_ticket *t, int64_t bytes)
{
    int64_t now = clock_ns();

    LOCK_GUARD(&p->lock);
    if (bytes > 0) {
        p->best_ns = MIN(p->best_ns, now - t->begun_ns);
        p->window_bytes += bytes;
        p->window_answers_ns += now - t->begun_ns;
        p->n_window_answers++;
    }
    measure(p, now);
    p->n_background--;
    p->background_bytes -= t->bytes;
    if (p->n_waiting > 0) {
        cond_signal(&p->changed);
    }
}

bool pace_wants_more(struct pace *p, int n_workers)
{
    int64_t now;

    LOCK_GUARD(&p->lock);
    if (n_workers >= p->depth || p->n_waiting > 0) {
        return false;
    }
    now = clock_ns();
    return may_begin(p, now, piece(p, now, INT64_MAX));
}

/* ---- guests ------------------------------------------------------------- */

/* For how long the background has had something in flight. */
static int64_t busy_ns(struct pace *p, int64_t now)
{
    return p->busy_ns + (p->n_background > 0 ? now - p->busy_since_ns : 0);
}

void pace_guest_begin(struct pace *p, struct pace_guest *g)
{
    LOCK_GUARD(&p->lock);
    p->n_guests++;
    g->begun_ns = clock_ns();
    g->busy_ns = busy_ns(p, g->begun_ns);
}

void pace_guest_end(struct pace *p, const struct pace_guest *g, int64_t bytes)
{
    int64_t now = clock_ns(), waited_ns = now - g->begun_ns;

    LOCK_GUARD(&p->lock);
    p->n_guests--;
    p->guest_left_ns = now;
    p->guest_wait_ns += (waited_ns - p->guest_wait_ns) / 8;
    if (waited_ns > PATIENCE_NS) {
        p->guest_suffered = true;
    }
    if (waited_ns > 0) {
        /* Only what was done beside the background, as the rest is. */
        double part = (busy_ns(p, now) - g->busy_ns) / (double)waited_ns;
        p->window_bytes += bytes * CLAMP(part, 0, 1);
    }
    if (p->n_waiting > 0) {
        cond_signal(&p->changed);
    }
}
