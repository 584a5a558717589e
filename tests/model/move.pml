/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Moving a ring: announcement, following, and when an announcement may be overwritten.
 *
 * N records, numbered, through a ring of SIZE records that moves between two extents at any moment the rules
 * allow, at most MOVES times; so the extent that was left is soon written again, and one read too late or from
 * the wrong extent shows as a wrong payload. Both ends poll: wake-ups are ring.pml's part. What a consumer would
 * call a broken peer is an assertion: an honest peer must never be taken for one.
 *
 * memory.inc has the store buffers; `MODEL:` marks and M_ mutants as in ring.pml.
 */
#define N 5
#define SIZE 2
#define MOVES 3

#define PROD 0
#define CONS 1
#define SEQ 2
#define POS 3
#define OFF 4
#define SLOT 5
#define PLACES 9

#include "memory.inc"

#define P 0
#define C 1
#define AT(ext, i) (SLOT + (ext) * SIZE + (i) % SIZE)
#define MAX(a, b) ((a) > (b) -> (a) : (b))

/* C: producer_look */
inline look_cons() {
	/* MODEL: look-cons E2 E8 */
	load(P, CONS, cons)
}

inline write_fields() {
	/* MODEL: move-fields E8 */
	store(P, POS, prod);
	store(P, OFF, 1 - ext)
}

/* C: shunt_producer_move */
inline move() {
#ifdef M_E8_ACQUIRE
	write_fields();
#endif
	look_cons();
	if
#ifdef M_E8_RULE
	:: cons >= floor ->		/* only "the old extent is free" */
#else
	:: moves == 0 || cons > floor || cons == prod ->
#endif
#ifndef M_E8_ACQUIRE
		write_fields();
#endif
		moves++;
		/* MODEL: move-seq E3 */
#if defined(M_E3_RELEASE)
		store(P, SEQ, moves);
#elif defined(M_E7_RELEASE)
		late = true;
#else
		store_release(P, SEQ, moves);
#endif
		ext = 1 - ext;
		floor = prod
	:: else
	fi
}

active proctype producer()
{
	byte prod, head, cons, floor, moves, ext, found;
	bool late;

	do
	:: prod == N -> break
	:: head == prod && prod < N && moves < MOVES -> move()
	:: prod < N && head < N && head - MAX(cons, floor) < SIZE ->
		store(P, AT(ext, head), head + 1);
		head++
	:: head != prod ->
		/* C: shunt_producer_publish */
		/* MODEL: publish E1 E4 E6 E7 */
		cmpxchg_full(P, PROD, prod, head, found);
		assert(found == prod);
		prod = head;
#ifdef M_E7_RELEASE
		if
		:: late -> late = false; store_full(P, SEQ, moves)
		:: else
		fi
#endif
	:: head - MAX(cons, floor) == SIZE -> look_cons()
	od
}

inline follow() {
	if
	:: pending && cons == pos -> ext = next; floor = pos; pending = false; pos = 0
	:: else
	fi
}

/* C: consumer_look_move */
inline look_move() {
#ifdef M_E3_ACQUIRE
	load(C, POS, raw_pos);
	load(C, OFF, raw_off);
#endif
	/* MODEL: look-move-seq E3 */
	load(C, SEQ, raw_seq);
	/* MODEL: look-move-fields E8 */
	if
	:: raw_seq != moves ->
#ifndef M_E3_ACQUIRE
		load(C, POS, raw_pos);
		load(C, OFF, raw_off);
#endif
		assert(raw_seq > moves && !pending);
		assert(raw_pos >= prod && raw_pos <= MAX(released, floor) + SIZE);
		moves = raw_seq;
		pos = raw_pos;
		next = raw_off;
		pending = true
	:: else
	fi;
	raw_seq = 0;
	raw_pos = 0;
	raw_off = 0
}

/* C: consumer_look */
inline look_prod() {
#ifdef M_E7_ACQUIRE
	look_move();
#endif
	/* MODEL: look-prod E1 E7 */
	load(C, PROD, raw);
#ifndef M_E7_ACQUIRE
	if
	:: raw != prod -> look_move()
	:: else
	fi;
#endif
	if
	:: pending && raw > pos -> assert(raw <= pos + SIZE)
	:: else -> assert(raw <= MAX(released, floor) + SIZE)
	fi;
	prod = raw;
	raw = 0
}

active proctype consumer()
{
	byte prod, cons, released, floor, moves, ext, pos, next, raw, raw_seq, raw_pos, raw_off, got;
	bool pending;

	do
	:: cons == N -> break
	:: cons < N && cons == prod -> look_prod(); follow()
	:: cons != prod ->
		load(C, AT(ext, cons), got);
		assert(got == cons + 1);
		got = 0;
		cons++;
#ifndef M_NO_FOLLOW
		follow()
#endif
	:: released != cons ->
		/* C: shunt_consumer_release */
		/* MODEL: release E2 E5 E8 */
		store_full(C, CONS, cons);
		released = cons
	od
}

init {
	atomic { run drain(P); run drain(C) }
}
