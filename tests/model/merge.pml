/*
 * merge.pml - a context with several parents (core/merge.c): who ends it, who lets its links go, who frees it.
 *
 * What after.c promises is taken as given (after_stop.pml): a registration is claimed once, by the end or by a stop; a stop that finds
 * its callback running leaves a notice, which is given when that is over. Parents 1 .. N are tied by links; the tree's parent
 * and the maker end the merge, too. The maker registers the links while the parents end, then the merge's own callback, and ends it.
 *
 * Asserted: the merge is not freed while a link is registered or its callback runs; freed once, with no hold left; one
 * winner, and every parent's end returns with the merge ended (any), or the last one's does (all).
 *
 * C: core/merge.c decide, parent_ended, rctx__merge_winner.
 *
 * ALSO ALL: it ends with the last parent, and has none in the tree.
 * PLANT BUG_NO_HOLD: a link does not hold the merge.
 * PLANT BUG_DROP_TWICE: a hold is given up at once though its callback still runs.
 * PLANT BUG_KEEP_QUIET: the hold of a link that was quiet is not given up.
 * PLANT BUG_ENDED_FIRST: its own callback is registered before its links.
 * PLANT BUG_NO_HELP: a parent that is not the winner does not cancel.
 * PLANT BUG_COUNT: counting down is two steps (needs ALL).
 */
#ifdef BUG_COUNT
#define ALL
#endif
#define N 2

mtype = {NONE, ARMED, RUNNING, QUIET, STOPPED};

mtype tie[N];       /* the links' registrations */
bool notice[N];      /* left by a stop, to be given when the callback is over */
bool tied[N];
mtype own = NONE;    /* the merge's own callback */
bool parent_ended[N];
bool ended = false, freed = false;
byte refs = 1, winner = 0, undecided = N, over = 0;

inline drop() {
  atomic {
    assert(!freed && refs > 0);
    refs--;
    if
    :: refs == 0 ->
      i_free = 0;
      do
      :: i_free < N -> assert(tie[i_free] != ARMED && tie[i_free] != RUNNING); i_free++
      :: else -> break
      od;
      freed = true
    :: else
    fi
  }
}

/* The merge's own callback: take all links back. */
inline unlink_all() {
  i_un = 0;
  do
  :: i_un < N ->
    if
    :: !tied[i_un]
    :: else ->
      atomic {
        assert(!freed);
        if
        :: tie[i_un] == ARMED -> tie[i_un] = STOPPED; quiet = true
        :: tie[i_un] == RUNNING -> notice[i_un] = true; quiet = false
        :: else -> quiet = true
        fi
      }
#ifdef BUG_DROP_TWICE
      quiet = true;
#endif
#ifdef BUG_KEEP_QUIET
      quiet = false;
#endif
      if
      :: quiet -> drop()
      :: else
      fi
    fi;
    i_un++
  :: else -> break
  od
}

/* By whoever has a hold. The one that marks runs the callback; with the mark it takes a reference for that (pin_for_notice). */
inline cancel() {
  atomic {
    assert(!freed);
    mine = false;
    if
    :: !ended ->
      ended = true;
      if
      :: own == ARMED -> own = RUNNING; mine = true; refs++
      :: else
      fi
    :: else
    fi
  };
  if
  :: mine -> unlink_all(); own = QUIET; drop()
  :: else
  fi
}

inline parent_over(p) {
#ifdef ALL
#ifdef BUG_COUNT
  seen = undecided;
  undecided = seen - 1;
  decides = (seen == 1);
#else
  atomic { undecided--; decides = (undecided == 0) };
#endif
#else
  decides = true;
#endif
  if
  :: decides ->
    atomic {
      assert(!freed);
      if
      :: winner == 0 -> winner = p + 1
#ifdef BUG_NO_HELP
      :: else -> decides = false
#else
      :: else
#endif
      fi
    };
    if
    :: decides -> cancel()
    :: else
    fi
  :: else
  fi
}

proctype parent(byte p) {
  byte i_un = 0, i_free = 0, seen = 0;
  bool quiet, mine, decides, fired;
  atomic {
    parent_ended[p] = true;
    fired = (tie[p] == ARMED);
    if
    :: fired -> tie[p] = RUNNING
    :: else
    fi
  };
  if
  :: fired ->
    assert(!freed);
    parent_over(p);
#ifndef ALL
    assert(ended);
#endif
    atomic {
      tie[p] = QUIET;
      fired = notice[p];
    };
    if
    :: fired -> drop()
    :: else
    fi
  :: else
  fi;
  over++
}

#ifndef ALL
/* The parent in the tree: its walk pins what it ends. */
proctype above() {
  byte i_un = 0, i_free = 0;
  bool quiet, mine, pinned;
  atomic {
    pinned = !freed && refs > 0;
    if
    :: pinned -> refs++
    :: else
    fi
  };
  if
  :: pinned -> cancel(); drop()
  :: else
  fi;
  over++
}
#endif

inline register_own() {
  atomic {
    mine = false;
    if
    :: ended -> own = RUNNING; mine = true
    :: else -> own = ARMED
    fi
  };
  if
  :: mine -> unlink_all(); own = QUIET
  :: else
  fi
}

proctype maker() {
  byte i_un = 0, i_free = 0, seen = 0, p = 0;
  bool quiet, mine, decides;
#ifdef BUG_ENDED_FIRST
  register_own();
#endif
  do
  :: p < N ->
#ifndef BUG_NO_HOLD
    atomic { assert(!freed); refs++ };
#endif
    atomic {
      decides = parent_ended[p];
      if
      :: decides
      :: else -> tie[p] = ARMED
      fi
    };
    if
    :: decides ->
#ifndef BUG_NO_HOLD
      drop();
#endif
      parent_over(p)
    :: else -> tied[p] = true
    fi;
    p++
  :: else -> break
  od;
#ifndef BUG_ENDED_FIRST
  register_own();
#endif
#ifdef ALL
  if
  :: skip
  :: over == N -> assert(ended)
  fi;
#endif
  cancel();
  drop();
  over++
}

init {
  atomic {
    run maker();
    run parent(0);
    run parent(1);
#ifndef ALL
    run above();
    (over == 4);
#else
    (over == 3);
#endif
  }
  assert(freed && refs == 0);
}
