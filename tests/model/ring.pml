/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Publish, consume, wake up, seal: the protocol of core/producer.c, core/consumer.c and core/ring.c.
 *
 * A ring of SIZE records carries N records whose payload is their number. The producer stages one or two
 * at a time; the consumer takes one at a time and gives space back when it likes, at the latest before it
 * sleeps; a third process seals at any moment, or never. Doorbells are sticky, as eventfds and interrupts are.
 *
 * Properties:
 *  - no lost wake-up: an invalid end state is a process asleep that nobody will wake
 *  - nothing lost, duplicated or reordered, nothing read before it was written or after it was overwritten:
 *    the payload assertion
 *  - the sealed position is final: what the sealer saw is what the producer published and the consumer reads
 *
 * `MODEL:` marks a step that core/ marks with the same words; tests/model/drift compares. Each M_ macro is a
 * mutant: one edge, look or bell removed. tests/model/run demands that each of them fails.
 */
#define N 4
#define SIZE 2
#define SEALED 64

#define PROD 0
#define CONS 1
#define DATA_EVENT 2
#define SPACE_EVENT 3
#define SLOT 4
#define PLACES 6

#include "memory.inc"

#define P 0
#define C 1

bool bell_p, bell_c;		/* doorbells rung and not yet taken */
byte final = 255;		/* what the sealer saw */
byte published;			/* ghost: records published */

#define NEVER 255
#define HIT(event, from, to) ((event) >= (from) && (event) < (to))

/* C: producer_look */
inline look_cons() {
	/* MODEL: look-cons E2 E8 */
	load(P, CONS, cons);
	assert(cons <= prod)
}

/* C: shunt_producer_publish */
inline publish() {
#ifdef M_E4_LOOK_EARLY
	load(P, DATA_EVENT, event);
#endif
	/* MODEL: publish E1 E4 E6 E7 */
#if defined(M_E4_PUBLISH_STORE)
	found = prod;
	store(P, PROD, head);		/* no barrier before the look */
#elif defined(M_E6_PUBLISH_STORE)
	load(P, PROD, found);
	if
	:: found == prod -> store_full(P, PROD, head)	/* barrier, but not one step with the check */
	:: else
	fi;
#elif defined(M_E1_RELEASE)
	cmpxchg_relaxed(PROD, prod, head, found);
#else
	cmpxchg_full(P, PROD, prod, head, found);
#endif
	if
	:: found != prod ->
		assert(found == (prod | SEALED));
		sealed = true;
		head = prod
	:: else ->
		from = prod;
		prod = head;
		published = prod;
		/* MODEL: look-data-event E4 */
#ifndef M_E4_LOOK_EARLY
		load(P, DATA_EVENT, event);
#endif
		if
#ifdef M_HIT_LAST_ONLY
		:: event == prod - 1 -> bell_c = true
#else
		:: HIT(event, from, prod) -> bell_c = true
#endif
		:: else
		fi
	fi
}

/* C: shunt_producer_arm_after, with bytes = 1 */
inline arm_space() {
	/* MODEL: arm-space E5 */
#ifdef M_E5_ARM_STORE
	store(P, SPACE_EVENT, cons);
#else
	store_full(P, SPACE_EVENT, cons);
#endif
	/* MODEL: recheck-space E5 */
#ifdef M_E5_NO_RECHECK
	found = cons;
#else
	load(P, CONS, found);
#endif
	if
	:: found == cons ->
		load(P, PROD, found);
		if
		:: found == prod -> bell_p -> bell_p = false	/* sleep */
		:: else
		fi
	:: else
	fi
}

active proctype producer()
{
	byte prod, head, cons, event, found, from;
	bool sealed;

	do
	:: sealed || prod == N -> break
	:: else ->
#ifdef M_E2_ACQUIRE
		if
		:: head < N -> store(P, SLOT + head % SIZE, head + 1)	/* overwrites before it looks */
		:: else
		fi;
#endif
		if
		:: head - cons == SIZE -> look_cons()
		:: else
		fi;
		if
		:: head < N && head - cons < SIZE ->
			store(P, SLOT + head % SIZE, head + 1);
			head++;
			if
			:: publish()
			:: head < N		/* stage another */
			fi
		:: else ->
			if
			:: head != prod -> publish()
			:: else ->
				load(P, PROD, found);		/* producer_full() */
				if
				:: found & SEALED -> sealed = true
				:: else -> arm_space()
				fi
			fi
		fi
	od;
	published = prod
}

/* C: consumer_look */
inline look_prod() {
#ifdef M_E1_ACQUIRE
	load(C, SLOT + cons % SIZE, early);
#endif
	/* MODEL: look-prod E1 E7 */
	load(C, PROD, raw);
	assert((raw & (SEALED - 1)) >= prod && (raw & (SEALED - 1)) <= released + SIZE);
	sealed = (raw & SEALED) != 0;
	prod = raw & (SEALED - 1)
}

/* C: shunt_consumer_release */
inline release() {
	/* MODEL: release E2 E5 E8 */
#ifdef M_E5_RELEASE_STORE
	store(C, CONS, cons);
#else
	store_full(C, CONS, cons);
#endif
	from = released;
	released = cons;
	/* MODEL: look-space-event E5 */
	load(C, SPACE_EVENT, event);
	if
	:: HIT(event, from, released) -> bell_p = true
	:: else
	fi
}

/* C: shunt_consumer_arm_after */
inline arm_data() {
	/* MODEL: arm-data E4 */
#if defined(M_E4_ARM_STORE)
	store(C, DATA_EVENT, prod);
#elif defined(M_ARM_OFF_BY_ONE)
	store_full(C, DATA_EVENT, prod + 1);
#else
	store_full(C, DATA_EVENT, prod);
#endif
	/* MODEL: recheck-data E4 */
#ifdef M_E4_NO_RECHECK
	raw = prod;
#else
	load(C, PROD, raw);
#endif
	if
	:: raw == prod -> bell_c -> bell_c = false	/* sleep */
	:: else
	fi
}

/* C: shunt_consumer_disarm; NEVER is what lies behind the last index seen */
inline disarm() {
	/* MODEL: disarm E4 */
	store(C, DATA_EVENT, NEVER)
}

inline take() {
#ifndef M_E1_ACQUIRE
	load(C, SLOT + cons % SIZE, early);
#endif
	assert(early == cons + 1);
	cons++
}

active proctype consumer()
{
	byte prod, cons, released, raw, event, from, early;
	bool sealed;

	do
	:: cons != prod ->
#ifdef M_E2_RELEASE
		cons++;
		release();
		load(C, SLOT + (cons - 1) % SIZE, early);	/* reads after it gave the space back */
		assert(early == cons)
#else
#ifdef M_E1_ACQUIRE
		if
		:: cons + 1 < prod -> load(C, SLOT + cons % SIZE, early)
		:: else
		fi;
#endif
		take();
		if
		:: release()
		:: true			/* later */
		fi
#endif
	:: else ->
		if
		:: sealed || cons == N -> break
		:: else
		fi;
		look_prod();
		if
		:: cons == prod && !sealed ->
			if
			:: released != cons -> release()
			:: else
			fi;
			if
			:: arm_data()
			:: true		/* poll on, */
			:: disarm()	/* and without doorbells */
			fi
		:: else
		fi
	od;
	/* sealed: the consumer ends exactly where the sealer said */
	assert(final == 255 || !sealed || cons == final);
	assert(!sealed || cons >= published)
}

/* C: shunt_ring_seal; either end, or any thread of it */
active proctype sealer()
{
	byte raw;

	if
#ifndef NO_SEAL
	:: true ->
		/* MODEL: seal E6 */
#ifdef M_E6_SEAL_STORE
		raw = mem[PROD];
		mem[PROD] = raw | SEALED;
#else
		atomic { raw = mem[PROD]; mem[PROD] = raw | SEALED };
#endif
		/* MODEL: seal-final E6 */
		atomic { final = mem[PROD] & (SEALED - 1) };
#ifndef M_SEAL_NO_BELL
		bell_c = true;
		bell_p = true
#endif
#endif
	:: true			/* never */
	fi
}

init {
	atomic { run drain(P); run drain(C) }
}

/* Final means final: once sealed, prod stays as it is. A violation makes this executable. */
active proctype monitor()
{
end:
	atomic {
		final != 255 && mem[PROD] != (final | SEALED);
		assert(false)
	}
}
