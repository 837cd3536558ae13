//! The cases. A child is token.child_token(); cancel() and drop end it.

use crate::{Case, Fixture};
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{mpsc, Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use tokio_util::time::{delay_queue::Key, DelayQueue};

const ALIVE: usize = 1_000_000;
const WAKES: usize = 64;

pub fn all() -> Vec<Case> {
    let mut all = vec![
        looped("err_poll_live", false, || poll(1, false)),
        looped("err_poll_depth16", false, || poll(16, false)),
        looped("err_poll_canceled", false, || poll(1, true)),
        looped("err_poll_live_2threads", true, || poll(1, false)),
        looped("err_poll_depth16_2threads", true, || poll(16, false)),
        looped("err_poll_canceled_2threads", true, || poll(1, true)),
        looped("derive_cancel", false, || server(0, derive_cancel)),
        looped("derive_cancel_100k_siblings", false, || {
            server(100_000, derive_cancel)
        }),
        looped("derive_cancel_2threads", true, || server(0, derive_cancel)),
        looped("derive_background", false, || {
            server(0, |_| cancel_and_drop(CancellationToken::new()))
        }),
        looped("after_register_stop", false, || server(0, register_stop)),
        looped("request_lifecycle", false, || server(0, serve)),
        looped("request_lifecycle_2threads", true, || server(0, serve)),
    ];
    for (name, roots, width, below) in [
        ("cancel_fanout_10", 100, 10, 1000),
        ("cancel_fanout_1000", 1, 1000, 1000),
        ("cancel_fanout_100000", 1, 100_000, 100_000),
        ("cancel_chain_1000", 1, 1, 1000),
        ("cancel_chain_1000000", 1, 1, 1_000_000),
        ("cancel_tree_10x10x10x10", 1, 10, 11_110),
    ] {
        all.push(batched(name, below, move || Tree {
            roots,
            width,
            below,
            nodes: Mutex::default(),
        }));
    }
    all.push(batched("timers_1m_arm", ALIVE, || Million::new(false)));
    all.push(batched("timers_1m_cancel", ALIVE, || Million::new(true)));
    all.push(looped("timer_churn_1k", false, || Churn::new(1000)));
    all.push(looped("timer_churn_100k", false, || Churn::new(100_000)));
    all.push(looped("timer_churn_1m", false, || Churn::new(1_000_000)));
    all.push(measured("cancel_to_wake", WAKES, Sleeper::new));
    all.push(measured("bytes_per_live_ctx_cancel", ALIVE, || Resident));
    all
}

fn case<F: Fixture + 'static>(name: &'static str, open: impl Fn() -> F + 'static) -> Case {
    Case {
        name,
        open: Box::new(move || Box::new(open())),
        pair: false,
        batch: 0,
        measured: false,
    }
}

fn looped<F: Fixture + 'static>(
    name: &'static str,
    pair: bool,
    open: impl Fn() -> F + 'static,
) -> Case {
    Case {
        pair,
        ..case(name, open)
    }
}

fn batched<F: Fixture + 'static>(
    name: &'static str,
    batch: usize,
    open: impl Fn() -> F + 'static,
) -> Case {
    Case {
        batch,
        ..case(name, open)
    }
}

fn measured<F: Fixture + 'static>(
    name: &'static str,
    batch: usize,
    open: impl Fn() -> F + 'static,
) -> Case {
    Case {
        batch,
        measured: true,
        ..case(name, open)
    }
}

// ---- looking at one

struct Chain(Vec<CancellationToken>);

fn poll(depth: usize, canceled: bool) -> Chain {
    let mut chain = vec![CancellationToken::new()];
    while chain.len() < depth {
        chain.push(chain[chain.len() - 1].child_token());
    }
    if canceled {
        chain[0].cancel();
    }
    Chain(chain)
}

impl Fixture for Chain {
    fn run(&self, operations: usize) {
        let last = &self.0[self.0.len() - 1];
        for _ in 0..operations {
            black_box(last.is_cancelled());
        }
    }
}

// ---- under one live parent

struct Server {
    token: CancellationToken,
    _siblings: Vec<CancellationToken>,
    operation: fn(&CancellationToken),
    runtime: Runtime, // for Sleep; its timer is driven by nobody, as nothing comes due
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

fn server(siblings: usize, operation: fn(&CancellationToken)) -> Server {
    let token = CancellationToken::new();
    let siblings = (0..siblings).map(|_| token.child_token()).collect();
    Server {
        token,
        _siblings: siblings,
        operation,
        runtime: runtime(),
    }
}

impl Fixture for Server {
    fn run(&self, operations: usize) {
        let _entered = self.runtime.enter();
        for _ in 0..operations {
            (self.operation)(&self.token);
        }
    }
}

fn cancel_and_drop(token: CancellationToken) {
    black_box(&token).cancel();
}

fn derive_cancel(server: &CancellationToken) {
    cancel_and_drop(server.child_token());
}

struct Nobody;
impl Wake for Nobody {
    fn wake(self: Arc<Self>) {}
}

/// The compiler knows nothing of the result. Debian's rustc 1.63 has no std::hint::black_box yet.
fn black_box<T>(value: T) -> T {
    unsafe { std::arch::asm!("/* {0} */", in(reg) &value, options(nostack, preserves_flags)) };
    value
}

thread_local! {
    static NOBODY: Waker = Waker::from(Arc::new(Nobody));
}

/// As the first turn of a select! does.
fn poll_once(future: impl Future) {
    tokio::pin!(future);
    NOBODY.with(|nobody| black_box(future.poll(&mut Context::from_waker(nobody)).is_pending()));
}

fn register_stop(server: &CancellationToken) {
    poll_once(server.cancelled());
}

/// The timeout is a Sleep beside the token, as in the documentation's select!.
fn serve(server: &CancellationToken) {
    let request = server.child_token();
    let limited = request.child_token();
    poll_once(tokio::time::sleep(Duration::from_secs(30)));
    let first = limited.child_token();
    let second = limited.child_token();
    black_box(first.is_cancelled());
    black_box(second.is_cancelled());
}

// ---- cancelling many: nodes numbered breadth first, the first `roots` are cancelled

struct Tree {
    roots: usize,
    width: usize,
    below: usize,
    nodes: Mutex<Vec<CancellationToken>>,
}

impl Fixture for Tree {
    fn prepare(&self) {
        let mut nodes = self.nodes.lock().unwrap();
        nodes.extend((0..self.roots).map(|_| CancellationToken::new()));
        for i in 0..self.below {
            let child = nodes[i / self.width].child_token();
            nodes.push(child);
        }
    }
    fn run(&self, _: usize) {
        self.nodes.lock().unwrap()[..self.roots]
            .iter()
            .for_each(CancellationToken::cancel);
    }
    fn cleanup(&self) {
        let mut nodes = self.nodes.lock().unwrap();
        while nodes.pop().is_some() {} // children first
    }
}

// ---- many deadlines

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    /// Uniform over [from, from + 60) seconds, to the microsecond.
    fn timeout(&mut self, from_s: u64) -> Duration {
        Duration::from_secs(from_s) + Duration::from_micros(self.next() % 60_000_000)
    }
}

struct Timers {
    queue: DelayQueue<usize>,
    keys: Vec<Key>,
    order: Vec<usize>,
    random: Random,
}

impl Timers {
    fn new(count: usize) -> Timers {
        let mut random = Random(2_463_534_242);
        let mut order: Vec<usize> = (0..count).collect();
        for i in 1..count {
            order.swap(i, random.next() as usize % (i + 1));
        }
        Timers {
            queue: DelayQueue::with_capacity(count),
            keys: Vec::with_capacity(count),
            order,
            random,
        }
    }
    fn arm(&mut self, from_s: u64) {
        for i in 0..self.order.len() {
            let timeout = self.random.timeout(from_s);
            self.keys.push(self.queue.insert(i, timeout));
        }
    }
    fn cancel(&mut self) {
        for &i in &self.order {
            self.queue.remove(&self.keys[i]);
        }
        self.keys.clear();
    }
}

struct Million {
    timers: Mutex<Timers>,
    cancelling: bool,
    runtime: Runtime,
}

impl Million {
    fn new(cancelling: bool) -> Million {
        let runtime = runtime();
        let timers = Mutex::new(Timers::new(ALIVE));
        Million {
            timers,
            cancelling,
            runtime,
        }
    }
}

impl Fixture for Million {
    fn prepare(&self) {
        let _entered = self.runtime.enter();
        if self.cancelling {
            self.timers.lock().unwrap().arm(1);
        }
    }
    fn run(&self, _: usize) {
        let _entered = self.runtime.enter();
        let mut timers = self.timers.lock().unwrap();
        if self.cancelling {
            timers.cancel();
        } else {
            timers.arm(1);
        }
    }
    fn cleanup(&self) {
        let _entered = self.runtime.enter();
        if !self.cancelling {
            self.timers.lock().unwrap().cancel();
        }
    }
}

struct Churn {
    timers: Mutex<Timers>,
    runtime: Runtime,
}

impl Churn {
    fn new(count: usize) -> Churn {
        let runtime = runtime();
        let mut timers = Timers::new(count);
        {
            let _entered = runtime.enter();
            timers.arm(60);
        }
        Churn {
            timers: Mutex::new(timers),
            runtime,
        }
    }
}

impl Fixture for Churn {
    fn run(&self, operations: usize) {
        let _entered = self.runtime.enter();
        let mut guard = self.timers.lock().unwrap();
        let timers = &mut *guard;
        for _ in 0..operations {
            let any = (timers.random.next() >> 20) as usize % timers.keys.len();
            let timeout = timers.random.timeout(60);
            timers.queue.reset(&timers.keys[any], timeout);
        }
    }
}

// ---- a blocked thread

extern "C" {
    fn syscall(number: i64, ...) -> i64;
}
#[cfg(target_arch = "x86_64")]
const SYS_FUTEX: i64 = 202;
#[cfg(not(target_arch = "x86_64"))]
const SYS_FUTEX: i64 = 98;

fn futex(word: &AtomicU32, operation: i32, value: u32) {
    // SAFETY: word lives as long as the call; 0 is no timeout.
    unsafe {
        syscall(
            SYS_FUTEX,
            word as *const AtomicU32 as *mut u32,
            operation | 128,
            value,
            0usize,
            0usize,
            0u32,
        )
    };
}

struct Sleeper {
    waits: mpsc::SyncSender<Option<CancellationToken>>,
    woke: Mutex<mpsc::Receiver<Instant>>,
    word: Arc<AtomicU32>,
}

impl Sleeper {
    fn new() -> Sleeper {
        let (waits, waited) = mpsc::sync_channel::<Option<CancellationToken>>(1);
        let (wakes, woke) = mpsc::channel();
        let word = Arc::new(AtomicU32::new(0));
        let its_word = word.clone();
        std::thread::spawn(move || {
            let runtime = runtime();
            for token in waited {
                match token {
                    Some(token) => runtime.block_on(token.cancelled()),
                    None => {
                        while its_word.load(SeqCst) == 0 {
                            futex(&its_word, 0, 0);
                        }
                    }
                }
                wakes.send(Instant::now()).unwrap();
            }
        });
        Sleeper {
            waits,
            woke: Mutex::new(woke),
            word,
        }
    }

    /// How long the sleeper takes to run after wake.
    fn time(&self, token: Option<CancellationToken>, wake: impl FnOnce()) -> f64 {
        self.waits.send(token).unwrap();
        std::thread::sleep(Duration::from_micros(200)); // until it blocks
        let start = Instant::now();
        wake();
        let woke = self.woke.lock().unwrap().recv().unwrap();
        woke.duration_since(start).as_nanos() as f64
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Fixture for Sleeper {
    fn run(&self, _: usize) {}
    fn measure(&self) -> Option<(f64, Vec<(&'static str, f64)>)> {
        let (mut ours, mut kernel) = (Vec::new(), Vec::new());
        for _ in 0..WAKES {
            let token = CancellationToken::new();
            ours.push(self.time(Some(token.clone()), || token.cancel()));
            self.word.store(0, SeqCst);
            kernel.push(self.time(None, || {
                self.word.store(1, SeqCst);
                futex(&self.word, 1, 1);
            }));
        }
        Some((
            median(ours) * WAKES as f64,
            vec![("kernel_ns", median(kernel))],
        ))
    }
}

// ---- a million alive, in this process, which has run nothing else

struct Resident;

fn resident_bytes() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * 4096.0
}

impl Fixture for Resident {
    fn run(&self, _: usize) {}
    fn measure(&self) -> Option<(f64, Vec<(&'static str, f64)>)> {
        let server = CancellationToken::new();
        let mut children: Vec<Option<CancellationToken>> = vec![None; ALIVE];
        children
            .iter_mut()
            .for_each(|child| *child = black_box(None)); // its pages are the caller's
        let before = resident_bytes();
        let start = Instant::now();
        children
            .iter_mut()
            .for_each(|child| *child = Some(server.child_token()));
        let took = start.elapsed().as_nanos() as f64;
        Some((
            took,
            vec![("resident_bytes", (resident_bytes() - before) / ALIVE as f64)],
        ))
    }
}
