#!/usr/bin/env python3
"""Bugs planted into copies of the core's files, each of which the schedules have to find.

    plant.py --list                    one line for each: NAME FILE
    plant.py --write NAME OUTPUT       the file with the bug
    plant.py --run DIRECTORY SEED      run the planted programs there; fails if a bug is not found, or not by its seed

A bug is a piece of text that the file has exactly once, and what stands there instead. When the core changes under it, change it here.
"""
import os
import re
import subprocess
import sys
import time

CORE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "core")
SCHEDULES = 1000000  # at most

# name, file, body that finds it, what it breaks, old text, new text, perhaps more of these
BUGS = [
    ("mark_ignores_lock", "tree.c", "leave_cancel", "a mark falls between a splice's lock and its unlock, which erases it",
     """    if (unlikely(s & STATE_LOCKED)) {
      rctx__back_off(&node->state, s, &tries);
      continue;
    }
    if (unlikely(s & STATE_ENDLESS)) return 0;""",
     """    (void)tries;
    if (unlikely(s & STATE_ENDLESS)) return 0;"""),
    ("loser_does_not_help", "tree.c", "two_cancels", "a cancel that lost returns while what is below is live",
     "    rctx__finish(node, 0); /* help to mark what is below */\n", ""),
    ("no_grace_period", "tree.c", "leave_cancel", "a child's memory goes while a walk stands on it",
     "  return unlikely(rctx__done(parent_state)) && !(parent_state & STATE_WALKED);",
     "  (void)parent_state;\n  return false;"),
    ("drop_with_one_lock", "tree.c", "stripes_drop", "DROPPED is set while a child leaves by another list: nobody is the last",
     """  stripes_lock_all(stripes, count);
  bool dead = false;""",
     "  count = 0;\n  bool dead = false;"),
    ("no_pass_through", "tree.c", "stripes_cancel", "a walk reads a stripe's list while a splice that saw the parent live is under way",
     """    rctx__take(&stripes[i].lock);
    rctx__unlock(&stripes[i].lock);
  }
  return first_from(parent, 0);""",
     "  }\n  return first_from(parent, 0);"),
    ("cause_after_mark", "tree.c", "add_cancel", "an error without its cause",
     """  store_relaxed(&node->cause, cause);               /* published by the mark */
  rctx__state_unlock(node, s | how | STATE_WALKED); /* the mark */""",
     """  rctx__state_unlock(node, s | how | STATE_WALKED);
  store_relaxed(&node->cause, cause);"""),
    ("state_before_count", "tree.c", "give_up", "the last reference goes while a friend has derived below it",
     """  return load_acquire(&node->refs) == 1 &&                                               /* partner: give_up_locked() */
         !(load_acquire(&node->state) & (STATE_CHILDREN | STATE_NOTIFY | STATE_LOCKED)); /* partners: all unlocks */""",
     """  return !(load_acquire(&node->state) & (STATE_CHILDREN | STATE_NOTIFY | STATE_LOCKED)) &&
         load_acquire(&node->refs) == 1;"""),
    ("kick_read_before_lock", "timer.c", "timer_first_kick", "a timer is armed while the driver goes to sleep, and does not wake it",
     """  rctx__take(&shard->lock);
  if (unlikely(tick <= shard->wheel.now)) { /* the driver has been there already */""",
     """  bool early = tick_ns(timers, tick) < load_relaxed(&timers->sleep_until_ns);
  rctx__take(&shard->lock);
  if (unlikely(tick <= shard->wheel.now)) {""",
     "  bool earlier = tick_ns(timers, tick) < load_relaxed(&timers->sleep_until_ns); /* under the lock: see timer.h */",
     "  bool earlier = early;"),
    ("sequence_after_scan", "timer.c", "timer_kick", "a kick during the scan is forgotten",
     "    uint32_t sequence = load_seq_cst(&timers->kick_sequence); /* step 1; partner: kick() */\n", "",
     "    int64_t until = first_event(timers, true);\n",
     """    int64_t until = first_event(timers, true);
    uint32_t sequence = load_seq_cst(&timers->kick_sequence);
"""),
    ("fired_before_pin", "timer.c", "timer_fire_stop", "a node goes between FIRED and the driver's pin",
     """    bool pinned = rctx__pin(node);
    store_release(&node->timer_state,
                  (uint8_t)TIMER_FIRED); /* partner: disarm, which may free the unpinned node then */""",
     """    store_release(&node->timer_state, (uint8_t)TIMER_FIRED);
    bool pinned = rctx__pin(node);"""),
    ("stop_does_not_wait", "after.c", "stop_callback", "a callback runs when the stop that waits for it has returned",
     """    case AFTER_SUBMITTED:
    case AFTER_RUNNING:
      if (runs_here(node, s)) return false;""",
     """    case AFTER_SUBMITTED:
    case AFTER_RUNNING:
      return false;
      if (runs_here(node, s)) return false;"""),
    ("stop_takes_without_claim", "after.c", "stop_callback", "a stop and the callback both get it",
     """      if (!cas_acq_rel(rctx__after_state(after), &s, (uint32_t)AFTER_STOPPING)) continue; /* partner: other claims */
""",
     "      store_release(rctx__after_state(after), (uint32_t)AFTER_STOPPING);\n"),
    ("wait_flag_overwrites", "wait.c", "wait_cancel", "a waiter's flag undoes what another has done to the word",
     "      if (!cas_relaxed(&node->state, &s, s | STATE_WAIT)) continue; /* the futex compares the word again */",
     "      store_relaxed(&node->state, s | STATE_WAIT);"),
    ("fd_of_ended_not_written", "wait.c", "fd_cancel", "a descriptor is handed out before its maker has made it readable",
     "  if (rctx__done(s)) rctx__eventfd_signal(fd);\n  return fd;",
     "  return fd;",
     "    if (!first) rctx__close(fresh);\n",
     "    if (!first) rctx__close(fresh);\n    if (first && rctx__done(s)) rctx__eventfd_signal(ext->done.fd);\n"),
    ("queue_says_nothing_left", "loop.c", "loop_queue", "what is queued while a drain leaves is not signalled",
     "  bool signal = !all && queue->first != NULL && want_signal_locked(queue);",
     "  bool signal = false;"),
    ("queue_busy_for_stops", "loop.c", "stop_notify", "a drain calls itself for what a stop is about to take off the queue",
     "  bool signal = !all && queue->first != NULL && want_signal_locked(queue);",
     "  bool signal = queue->first != NULL && want_signal_locked(queue);"),
    ("queue_cleared_last", "loop.c", "loop_queue", "a drain clears the descriptor after it has let go of the queue",
     "  if (clear && queue->wake.fd >= 0) rctx__eventfd_clear(rctx__fd_own(&queue->wake));\n", "",
     "  if (signal) rctx__queue_signal(queue);\n",
     """  if (clear && queue->wake.fd >= 0) rctx__eventfd_clear(rctx__fd_own(&queue->wake));
  if (signal) rctx__queue_signal(queue);
"""),
    ("group_sequence_unlocked", "group.c", "group_tasks", "a task returns between a waiter's look and its sleep",
     """  uint32_t seen = load_relaxed(sequence_of(group)); /* under the lock */
  group->rctx__waiting++;
  rctx__unlock(lock_of(group));""",
     """  group->rctx__waiting++;
  rctx__unlock(lock_of(group));
  uint32_t seen = load_relaxed(sequence_of(group));"""),
    ("merge_counts_apart", "merge.c", "merge_all", "two parents end at once, and each sees the other live",
     "  if (!merge->all || sub_acq_rel(&merge->left, 1U) == 1) decide(merge, parent); /* partner: itself */",
     """  uint32_t left = merge->all ? load_relaxed(&merge->left) : 1;
  if (merge->all) store_relaxed(&merge->left, left - 1);
  if (left == 1) decide(merge, parent);"""),
    ("task_let_go_after_done", "executor.c", "execute_result", "the caller has the result while the task still holds the context",
     "  rctx_unref(job->ctx);\n  if (job->count == NULL)",
     "  const rctx *kept = job->ctx;\n  if (job->count == NULL)",
     "    rctx__futex_wake_all(&job->state);\n  }\n  rctx__job_drop(job);",
     "    rctx__futex_wake_all(&job->state);\n  }\n  rctx_unref(kept);\n  rctx__job_drop(job);"),
    ("counted_walks_forgotten", "rcu.c", "leave_reclaim", "a grace period does not wait for walks that could not register",
     "  bool over = load_seq_cst(&counted_walks) == 0;",
     "  bool over = true;"),
    ("handle_spins", "context.c", "end_parent_child", "spins on a locked word and never lets the holder go on",
     "      rctx__back_off(&ctx->state, s, &tries);\n",
     "      (void)tries;\n"),
]


def planted(bug):
    name, file, _, _, *pieces = bug
    with open(os.path.join(CORE, file), encoding="utf-8") as source:
        text = source.read()
    for old, new in zip(pieces[::2], pieces[1::2]):
        if text.count(old) != 1:
            sys.exit(f"plant.py: {name}: core/{file} has this {text.count(old)} times, not once:\n{old}")
        text = text.replace(old, new)
    return text


def output_of(*command):
    return subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
                          errors="replace").stdout


def symptom(output):
    seen = re.search(r"^(?:[^ \n]+:\d+: \w+|rctx|\w+): (.*)", output, re.M)
    return seen.group(1) if seen else ""


def run(directory, seed):
    print(f"seed {seed}\n{'planted bug':26} {'found by':20} {'schedules':>9} {'seconds':>7}  what was seen")
    failed = 0
    for name, _, body, *_ in BUGS:
        began = time.monotonic()
        program = os.path.join(directory, "planted_" + name)
        output = output_of(program, "--schedules", str(SCHEDULES), "--seed", str(seed), "--only", body)
        found = re.search(r"^\w+ failed after (\d+) schedules$", output, re.M)
        replay = re.search(r"--replay (\w+)$", output, re.M)
        verdict, ran = body, SCHEDULES
        if not found or not replay:
            verdict = "NOT FOUND"
        else:
            ran = found.group(1)
            again = symptom(output_of(program, "--only", body, "--replay", replay.group(1)))
            if again != symptom(output):
                verdict = "NOT REPLAYED"
        failed += verdict != body
        print(f"{name:26} {verdict:20} {ran:>9} {time.monotonic() - began:7.1f}  {symptom(output)[:70]}", flush=True)
    print(f"{len(BUGS) - failed} of {len(BUGS)} planted bugs found, and found again by their seeds")
    return 1 if failed else 0


def main(arguments):
    if arguments == ["--list"]:
        for name, file, *_ in BUGS:
            print(name, file)
        return 0
    if len(arguments) == 3 and arguments[0] == "--write":
        with open(arguments[2], "w", encoding="utf-8") as output:
            output.write(planted(next(bug for bug in BUGS if bug[0] == arguments[1])))
        return 0
    if len(arguments) >= 2 and arguments[0] == "--run":
        return run(arguments[1], int(arguments[2]) if len(arguments) > 2 else time.time_ns() & 0xFFFFFFFFFFFF)
    sys.exit(__doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
