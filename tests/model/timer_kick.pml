/*
 * timer_kick: the driver goes to sleep while timers are armed: no lost wake-up.
 *
 *        early   arms 1 on shard 0
 *        back    arms 3 on shard 1, takes it back, arms 2 there
 *        late    arms 2 on shard 0
 *        driver  works, scans, publishes when it will wake, sleeps
 *
 * arm: under the shard's lock insert and read sleep_until; after the unlock, if the timer is earlier, kick: seq++, wake.
 * driver: k = seq; sleep_until = NEVER (kick me for anything); next = earliest of all shards, each under its lock;
 * sleep_until = next; futex_wait(seq == k, until next); sleep_until = AT_WORK (kick me for nothing) until the next scan.
 *
 * Why one scan is enough. An armer that comes before the scan of its shard is seen by it. One that comes after takes the
 * lock that the scan has let go of, so it finds NEVER or `next` in sleep_until, and kicks if its timer is earlier; k was
 * sampled before, so the driver does not fall asleep or is woken. A value from before NEVER was stored can only be read by
 * an armer that came before the scan. The order is carried by the shard's lock alone.
 *
 * The first timer of all makes the shards. A driver that looked before has taken no lock, so nothing carries its NEVER to an
 * armer: here it stores it after that look, which is what a relaxed store may do. Who found no shards therefore kicks
 * whatever it reads. Another armer may come between the making and that kick and keep quiet: the kick is for it as well.
 *
 * VARIANT_TWO_SCANS is the other way round: sleep_until = AT_WORK while scanning, so nobody kicks, and after publishing
 * every shard is read again. Fewer kicks, twice the locks; both are right.
 *
 * What is done under a shard's lock to the shard alone is one step with the locking; a critical section that ends without having
 * touched anything else is one step.
 *
 * Checked: whenever the driver sleeps, every armed timer earlier than the end of its sleep belongs to an armer that has
 * yet to kick, or the armer that made the shards has. (At the moment of falling asleep for all timers, and when an armer
 * returns for its own.)
 *
 * C: core/timer.c rctx__timer_arm, rctx__timer_disarm_slow, first_event, driver, rctx_next.
 *
 * ALSO VARIANT_TWO_SCANS: see above
 * PLANT BUG_READ_BEFORE_LOCK: the armer reads sleep_until before it takes the shard's lock
 * PLANT BUG_QUIET_SCAN: one scan, with sleep_until saying "kick me for nothing" meanwhile
 * PLANT BUG_PUBLISH_AFTER_SCAN: one scan, with the end of the last sleep still published meanwhile
 * PLANT BUG_SEQ_AFTER_SCAN: seq is sampled after the scan
 * PLANT BUG_KICK_WITHOUT_SEQ: the kick wakes without changing seq
 * PLANT BUG_FIRST_KICKS_IF_EARLIER: who makes the shards relies on sleep_until like everybody else
 * PLANT BUG_SCAN_UNLOCKED: the scan reads, without the shard's lock, what armers publish after they have unlocked
 */
#define AT_WORK 0
#define NEVER 9
#define TIMERS 3

bit  made;                    /* the shards are there */
bit  lock[2];
byte at[TIMERS];              /* 0: not armed */
byte seen_at[2] = NEVER;      /* a shard's earliest, as an unlocked reader sees it: written after the unlock */
byte sleep_until = AT_WORK;
byte seq;
bit  asleep; byte until;
bit  to_kick[TIMERS];         /* ghost: armed, and seq not changed yet */
byte firsts;                  /* ghost: how many have found no shards and have yet to kick */

#define shard_of(t) (t == 1)

inline EARLIEST(s, m)         /* adds shard s to m */
{
	if
	:: s == 0 && at[0] && at[0] < m -> m = at[0]
	:: else
	fi;
	if
	:: s == 0 && at[2] && at[2] < m -> m = at[2]
	:: else
	fi;
	if
	:: s == 1 && at[1] && at[1] < m -> m = at[1]
	:: else
	fi
}

inline PUBLISH_EARLIEST(s)
{
#ifdef BUG_SCAN_UNLOCKED
	d_step { m_ = NEVER; EARLIEST(s, m_); seen_at[s] = m_; m_ = 0 }
#else
	skip
#endif
}

inline ARM(t, when)
{
	d_step { first_ = !made; firsts = firsts + first_; made = 1 }
#ifdef BUG_READ_BEFORE_LOCK
	su_ = sleep_until;
#endif
	atomic { !lock[shard_of(t)] -> lock[shard_of(t)] = 1; at[t] = when; to_kick[t] = 1 }
	d_step {
#ifndef BUG_READ_BEFORE_LOCK
		su_ = sleep_until;
#endif
		lock[shard_of(t)] = 0
	}
	PUBLISH_EARLIEST(shard_of(t));
	if
#ifdef BUG_FIRST_KICKS_IF_EARLIER
	:: when < su_ ->
#else
	:: when < su_ || first_ ->
#endif
#ifdef BUG_KICK_WITHOUT_SEQ
		to_kick[t] = 0;
#else
		d_step { seq++; to_kick[t] = 0 }
#endif
		d_step { asleep = 0; firsts = firsts - first_ }
	:: else -> d_step { to_kick[t] = 0; firsts = firsts - first_ }
	fi;
	d_step { su_ = 0; first_ = 0 }
	assert(!(asleep && at[t] && at[t] < until) || firsts)
}

inline DISARM(t)
{
	atomic { !lock[shard_of(t)] -> at[t] = 0 }
	PUBLISH_EARLIEST(shard_of(t))
}

proctype early() { byte su_, m_; bit first_; ARM(0, 1) }
proctype late()  { byte su_, m_; bit first_; ARM(2, 2) }
proctype back()  { byte su_, m_; bit first_; ARM(1, 3); DISARM(1); ARM(1, 2) }

inline SCAN(m)
{
	atomic { !lock[0] -> EARLIEST(0, m) }
	atomic { !lock[1] -> EARLIEST(1, m) }
}

#define nobody_waits_in_vain(t) (!at[t] || at[t] >= next || to_kick[t] || firsts)

proctype driver()
{
	byte k, next, again;
end:	do
	:: k = seq;
		if
		:: !made ->
			next = NEVER;
			sleep_until = NEVER;
			again = NEVER
		:: made ->
#if defined(VARIANT_TWO_SCANS) || defined(BUG_QUIET_SCAN)
			sleep_until = AT_WORK;
#elif !defined(BUG_PUBLISH_AFTER_SCAN)
			sleep_until = NEVER;
#endif
			next = NEVER;
#ifdef BUG_SCAN_UNLOCKED
			next = (seen_at[0] < next -> seen_at[0] : next);
			next = (seen_at[1] < next -> seen_at[1] : next);
#else
			SCAN(next);
#endif
			sleep_until = next;
			again = next;
#ifdef VARIANT_TWO_SCANS
			SCAN(again);
#endif
		fi;
#ifdef BUG_SEQ_AFTER_SCAN
		k = seq;
#endif
		if
		:: again < next
		:: else ->
			if
			:: atomic {
				seq == k ->
				asleep = 1; until = next;
				assert(nobody_waits_in_vain(0) && nobody_waits_in_vain(1) && nobody_waits_in_vain(2))
			}
end_asleep:
				if
				:: !asleep                               /* kicked */
				:: atomic { asleep -> asleep = 0 }       /* interrupted */
				:: atomic { next != NEVER -> asleep = 0  /* its time has come: what is due is taken out */
						at[0] = (at[0] <= next -> 0 : at[0]);
						at[1] = (at[1] <= next -> 0 : at[1]);
						at[2] = (at[2] <= next -> 0 : at[2])
					}
				fi
			:: seq != k
			fi
		fi;
#ifndef BUG_PUBLISH_AFTER_SCAN
		sleep_until = AT_WORK;
#endif
		d_step { k = 0; next = 0; again = 0; until = 0 }
	od
}

init { atomic { run early(); run back(); run late(); run driver() } }
