//! The global allocator, counted as bench/count_alloc.c does it: each thread on cache lines of its own, no locked instructions.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

const SLOTS: usize = 64;

#[repr(align(128))]
struct Slot {
    calls: AtomicU64,
    bytes: AtomicU64,
}

#[allow(clippy::declare_interior_mutable_const)] // the only way to fill a static array
const EMPTY: Slot = Slot {
    calls: AtomicU64::new(0),
    bytes: AtomicU64::new(0),
};
static COUNTS: [Slot; SLOTS] = [EMPTY; SLOTS];
static HANDED_OUT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
}

fn count(bytes: usize) {
    let slot = MINE.with(|mine| {
        if mine.get() == usize::MAX {
            mine.set(HANDED_OUT.fetch_add(1, Relaxed).min(SLOTS - 1));
        }
        mine.get()
    });
    let counts = &COUNTS[slot];
    if slot == SLOTS - 1 {
        counts.calls.fetch_add(1, Relaxed); // shared by all threads that came too late
        counts.bytes.fetch_add(bytes as u64, Relaxed);
    } else {
        counts.calls.store(counts.calls.load(Relaxed) + 1, Relaxed);
        counts
            .bytes
            .store(counts.bytes.load(Relaxed) + bytes as u64, Relaxed);
    }
}

/// Calls and bytes so far, of all threads.
pub fn total() -> (u64, u64) {
    COUNTS.iter().fold((0, 0), |sum, slot| {
        (
            sum.0 + slot.calls.load(Relaxed),
            sum.1 + slot.bytes.load(Relaxed),
        )
    })
}

pub struct Counted;

// SAFETY: all is System's.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        System.alloc(layout)
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        System.alloc_zeroed(layout)
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        System.realloc(pointer, layout, size)
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        System.dealloc(pointer, layout)
    }
}
