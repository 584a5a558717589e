// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * What both ends of a ring share: its limits and its seal. The two halves are in producer.c and
 * consumer.c; ring.h has the theory of operation.
 */
#include "access.h"

/**
 * shunt_rec_max - largest record payload of a ring
 * @size: bytes of the extent
 *
 * A record and the SKIP before it must fit into an empty ring, wherever the index stands: the SKIP
 * is always shorter than the record that caused it, so a record of half the extent always fits.
 */
__u64 shunt_rec_max(__u64 size)
{
	return size / 2 - 2 * SHUNT_ABI_REC_ALIGN;
}

/**
 * shunt_ring_seal - make the producer index final, from either end
 * @ctl: the ring
 *
 * Return: the final index as found in shared memory, unvalidated; the halves learn of the seal, and
 * validate, on their own way. Calling it again is harmless.
 *
 * Context: any; needs neither half's lock. The caller rings the other end's doorbell afterwards.
 */
__u64 shunt_ring_seal(struct shunt_abi_ring *ctl)
{
	/*
	 * E6: an atomic read-modify-write, totally ordered with the producer's compare-exchange: a
	 * publish lies either below the final index or fails. The result is read separately because
	 * a fetch_or that uses it is a loop on x86 that a hostile peer could keep busy.
	 */
	/* MODEL: seal E6 */
	__atomic_fetch_or(&ctl->prod, SHUNT_ABI_RING_SEALED, __ATOMIC_SEQ_CST);
	/* MODEL: seal-final E6 */
	return shunt_load_acquire(&ctl->prod) & ~SHUNT_ABI_RING_SEALED;
}
