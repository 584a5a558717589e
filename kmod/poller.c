// SPDX-License-Identifier: GPL-2.0-only
/*
 * The poller: spins on links that were just busy, so that the next frame needs no doorbell.
 *
 * DOC: Theory of operation
 *
 * One kernel thread in SCHED_IDLE: it runs only when the CPU has nothing else to do, and gives way
 * at once (need_resched() ends a spin). While it spins on a link it holds the SCHED bit of the link's
 * NAPI, so it owns link->rx like a NAPI poll does: a doorbell meanwhile only marks the poll as
 * missed. When it finds work it hands the bit over to the softirq by __napi_schedule(); when it stops it arms
 * the ring and completes NAPI, so a link is never left unarmed while nobody looks at it.
 *
 * napi_disable() waits for the SCHED bit; a spin ends when it sees that wait, so links can go.
 *
 * The window (spin_ns) is the time spent spinning without finding anything since the last
 * activity. It doubles when the next frame comes so soon after giving up that a window within
 * shunt_spin_max_us would have paid, and halves when even that would not have (a starved peer, for
 * one), but not below an eighth of shunt_spin_us. Two ends that both sleep see each other's wake-ups in
 * every gap and would find for ever that no window pays; so after spin_retry sleeps in vain one
 * activity gets the full window. If that finds something it counts as a window that paid; if not, the
 * next try waits twice as long.
 * shunt_spin_us=0 switches spinning off.
 *
 * Deferral. A NAPI poll that used up its budget while a task waits for the CPU gives the rest to the poller
 * together with the SCHED bit (shunt_poller_defer()). Being idle-class, the poller goes on when the
 * tasks have taken what they got; without it a flood of datagrams would be handed up faster than their
 * reader can run, and be dropped, where a full ring makes the sender wait. If tasks keep the CPU, a
 * timer has the poll go on after DEFER_NS all the same.
 */
#include <linux/kernel_stat.h>
#include <linux/kthread.h>
#include <linux/sched/clock.h>
#include <uapi/linux/sched/types.h>

#include "shunt.h"

#define DEFER_NS (2 * NSEC_PER_MSEC)
#define POLL_LINKS 8	/* links spun on at once; more take turns */
#define RETRY_MIN 8u	/* sleeps in vain before the full window is tried */
#define RETRY_MAX 256u

static struct task_struct *poller;
static DEFINE_SPINLOCK(hot_lock);
static LIST_HEAD(hot_links);

static u32 spin_max(void)
{
	return READ_ONCE(shunt_spin_max_us) * NSEC_PER_USEC;
}

/* A window was too short, and no window within the bound would have paid: the one to spin for now. */
static u32 shrink(struct shunt_link *link, u32 base)
{
	link->spin_ns = max(link->spin_ns / 2, base / 8);
	if (++link->spin_vain < link->spin_retry)
		return link->spin_ns;
	link->spin_vain = 0;
	link->spin_retry = min(link->spin_retry * 2, RETRY_MAX);
	link->spin_trying = true;
	return spin_max();
}

/* A window of @ns would have paid, or did. */
static void grow(struct shunt_link *link, u32 ns)
{
	link->spin_ns = min(ns, spin_max());
	link->spin_vain = 0;
	link->spin_retry = RETRY_MIN;
}

static void adapt(struct shunt_link *link, u64 now)
{
	u32 base = READ_ONCE(shunt_spin_us) * NSEC_PER_USEC;

	if (!link->spin_ns) {
		link->spin_ns = base;
		link->spin_retry = RETRY_MIN;
	}
	link->spin_left = link->spin_ns;
	if (!link->spin_slept)
		return;
	/* would a window up to the bound have seen this frame come? */
	if (link->spin_ns + (now - link->spin_slept) < spin_max()) {
		grow(link, link->spin_ns * 2);
		link->spin_left = link->spin_ns;
	} else {
		link->spin_left = shrink(link, base);
	}
	link->spin_slept = 0;
}

/**
 * shunt_poller_kick() - frames were received on @link: spin for more
 * @link: owned by the calling NAPI poll
 *
 * Context: softirq, before napi_complete_done().
 */
void shunt_poller_kick(struct shunt_link *link)
{
	bool wake;

	if (!READ_ONCE(shunt_spin_us))
		return;
	adapt(link, local_clock());
	spin_lock(&hot_lock);
	wake = list_empty(&hot_links);
	if (list_empty(&link->hot))
		list_add_tail(&link->hot, &hot_links);
	spin_unlock(&hot_lock);
	if (wake)
		wake_up_process(poller);
}

/**
 * shunt_poller_defer() - let the poller go on with @link's NAPI poll
 * @link: owned by the calling NAPI poll, which must return less than its budget without completing
 *
 * Context: softirq.
 */
void shunt_poller_defer(struct shunt_link *link)
{
	bool wake;

	spin_lock(&hot_lock);
	wake = list_empty(&hot_links);
	if (list_empty(&link->hot))
		list_add_tail(&link->hot, &hot_links);
	link->deferred = true;
	spin_unlock(&hot_lock);
	hrtimer_start(&link->defer, ns_to_ktime(DEFER_NS), HRTIMER_MODE_REL_SOFT);
	if (wake)
		wake_up_process(poller);
}

/**
 * shunt_poller_defer_timer() - tasks kept the CPU: go on in softirq
 * @t: link->defer
 *
 * Context: softirq.
 */
enum hrtimer_restart shunt_poller_defer_timer(struct hrtimer *t)
{
	struct shunt_link *link = container_of(t, struct shunt_link, defer);
	bool mine;

	spin_lock(&hot_lock);
	mine = link->deferred;
	if (mine)
		list_del_init(&link->hot);
	link->deferred = false;
	spin_unlock(&hot_lock);
	if (mine)
		__napi_schedule(&link->napi);
	return HRTIMER_NORESTART;
}

/**
 * shunt_poller_forget() - @link is about to go: take it off the list
 * @link: its NAPI is disabled, so the poller does not own it
 *
 * Context: process.
 */
void shunt_poller_forget(struct shunt_link *link)
{
	spin_lock_bh(&hot_lock);
	list_del_init(&link->hot);
	spin_unlock_bh(&hot_lock);
}

/* Own up to POLL_LINKS hot links. Under hot_lock a link cannot be forgotten; its SCHED bit then keeps it. */
static int collect(struct shunt_link **links)
{
	struct shunt_link *link, *next;
	int n = 0;

	spin_lock_bh(&hot_lock);
	list_for_each_entry_safe(link, next, &hot_links, hot) {
		if (n == POLL_LINKS)
			break;
		list_del_init(&link->hot);
		if (link->deferred || napi_schedule_prep(&link->napi)) {
			link->deferred = false;
			shunt_consumer_disarm(&link->rx);
			links[n++] = link;
		}
		/* else a poll is under way or disabled: it kicks us again if it finds anything */
	}
	spin_unlock_bh(&hot_lock);
	return n;
}

/* Held frames, and the peer has consumed a good part of what the producer last saw unread. */
static bool has_space(struct shunt_link *link)
{
	u64 cons = READ_ONCE(link->tx.cons);
	u64 enough = min((READ_ONCE(link->tx.prod) - cons) / 2, link->tx.size / 4);

	return !skb_queue_empty_lockless(&link->held) &&
	       READ_ONCE(link->tx.ctl->cons) - cons >= max(enough, 1ull);
}

static bool has_work(struct shunt_link *link)
{
	return shunt_consumer_pending(&link->rx) || has_space(link);
}

static u64 steal_now(void)
{
	return kcpustat_this_cpu->cpustat[CPUTIME_STEAL];
}

/* Stop owning @link: to the softirq if there is work, else armed and completed. */
static void let_go(struct shunt_link *link, bool expired)
{
	if (has_work(link) || !shunt_receive_arm(link)) {
		if (!expired) {
			link->stats.polls++;
			if (link->spin_trying)
				grow(link, spin_max());
		}
		link->spin_trying = false;
		__napi_schedule(&link->napi);
		return;
	}
	if (expired) {
		link->spin_trying = false;
		link->spin_slept = local_clock();
	} else {
		spin_lock(&hot_lock);
		list_add_tail(&link->hot, &hot_links);
		spin_unlock(&hot_lock);
	}
	napi_complete_done(&link->napi, 0);
}

/*
 * Spin on @links until one has work, its window ends, something else wants the CPU, or the
 * hypervisor took the CPU away. Preemption is off: an unarmed ring must not wait for SCHED_IDLE to run.
 */
static void spin(struct shunt_link **links, int n)
{
	u64 start = local_clock(), steal = steal_now(), spent = 0;
	u64 since[POLL_LINKS] = { 0 };
	u32 left = U32_MAX;
	bool found = false;
	int i;

	for (i = 0; i < n; i++)
		left = min(left, links[i]->spin_left);
	while (!found && spent < left && !need_resched() && steal_now() == steal) {
		for (i = 0; i < n; i++)
			if (shunt_receive_ripe(links[i], start + spent, &since[i]) || has_space(links[i]) ||
			    napi_disable_pending(&links[i]->napi))
				found = true;
		if (!found)
			cpu_relax();
		spent = local_clock() - start;
	}
	local_bh_disable();
	for (i = 0; i < n; i++) {
		struct shunt_link *link = links[i];

		link->spin_left -= min_t(u64, spent, link->spin_left);
		let_go(link, !link->spin_left);
	}
	local_bh_enable();	/* runs the softirq here and now */
}

static int poller_main(void *unused)
{
	struct shunt_link *links[POLL_LINKS];
	int n;

	while (!kthread_should_stop()) {
		preempt_disable();
		n = collect(links);
		if (n)
			spin(links, n);
		preempt_enable();
		if (n) {
			cond_resched();
			continue;
		}
		set_current_state(TASK_INTERRUPTIBLE);
		if (list_empty(&hot_links) && !kthread_should_stop())
			schedule();
		__set_current_state(TASK_RUNNING);
	}
	return 0;
}

/**
 * shunt_poller_start() - start the thread
 *
 * Returns 0 or a negative errno.
 */
int shunt_poller_start(void)
{
	static const struct sched_attr attr = {
		.size = sizeof(attr),
		.sched_policy = SCHED_IDLE,
	};
	struct task_struct *task = kthread_create(poller_main, NULL, "shunt-poll");

	if (IS_ERR(task))
		return PTR_ERR(task);
	sched_setattr_nocheck(task, &attr);
	poller = task;
	wake_up_process(task);
	return 0;
}

/**
 * shunt_poller_stop() - stop the thread; every link is gone already
 */
void shunt_poller_stop(void)
{
	kthread_stop(poller);
}
