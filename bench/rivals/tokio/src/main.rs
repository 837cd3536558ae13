//! The rival "tokio": tokio-util's CancellationToken and DelayQueue. The protocol is that of ../main.c:
//!
//!     --about | --list | --case NAME [--min-time SECONDS]

mod cases;
mod count;

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: count::Counted = count::Counted;

const NAME: &str = "tokio";
const BLIND: &str = "tokens have no deadlines, values, reasons, callbacks (a future polled once stands for one); timers are a \
                     DelayQueue; request_lifecycle is without values";

/// One case, opened. `run` does so many operations; with a `batch` exactly that many, and what `prepare` does is not timed.
pub trait Fixture: Sync {
    fn run(&self, operations: usize);
    fn prepare(&self) {}
    fn cleanup(&self) {}
    /// For cases that take their own time for one batch: nanoseconds in all, and further figures.
    fn measure(&self) -> Option<(f64, Vec<(&'static str, f64)>)> {
        None
    }
}

pub struct Case {
    pub name: &'static str,
    pub open: Box<dyn Fn() -> Box<dyn Fixture>>,
    pub pair: bool,
    pub batch: usize,
    pub measured: bool,
}

#[derive(Default)]
struct Sample {
    ns: f64,
    operations: usize,
    allocs: u64,
    bytes: u64,
    extra: Vec<(&'static str, f64)>,
}

fn timed(fixture: &dyn Fixture, operations: usize) -> f64 {
    let start = Instant::now();
    fixture.run(operations);
    start.elapsed().as_nanos() as f64
}

/// Both threads meet, spinning, before they start; the mean of what each saw.
fn timed_pair(fixture: &dyn Fixture, operations: usize) -> f64 {
    let met = AtomicU32::new(0);
    let both = || {
        met.fetch_add(1, SeqCst);
        while met.load(SeqCst) < 2 {
            std::hint::spin_loop();
        }
        timed(fixture, operations)
    };
    std::thread::scope(|scope| {
        let second = scope.spawn(both);
        (both() + second.join().unwrap()) / 2.0
    })
}

fn block(case: &Case, fixture: &dyn Fixture, operations: usize) -> Sample {
    fixture.prepare();
    let before = count::total();
    let (ns, extra) = match fixture.measure() {
        Some(measured) => measured,
        None if case.pair => (timed_pair(fixture, operations), Vec::new()),
        None => (timed(fixture, operations), Vec::new()),
    };
    let after = count::total();
    fixture.cleanup();
    Sample {
        ns,
        operations,
        allocs: after.0 - before.0,
        bytes: after.1 - before.1,
        extra,
    }
}

/// Batches until they took so long together; those that take their own time, once.
fn run_batches(case: &Case, fixture: &dyn Fixture, min_ns: f64) -> Sample {
    let mut sum = block(case, fixture, case.batch);
    while sum.ns < min_ns && !case.measured {
        let next = block(case, fixture, case.batch);
        sum.ns += next.ns;
        sum.operations += next.operations;
        sum.allocs += next.allocs;
        sum.bytes += next.bytes;
    }
    sum
}

/// One block of so many operations; how many that is, shorter blocks tell.
fn run_block(case: &Case, fixture: &dyn Fixture, min_ns: f64) -> Sample {
    let mut operations = 64;
    loop {
        let sample = block(case, fixture, operations);
        if sample.ns >= min_ns || operations >= 1_000_000_000 {
            return sample;
        }
        let wanted = if sample.ns > min_ns / 100.0 {
            (1.2 * min_ns / sample.ns).max(1.1)
        } else {
            10.0
        };
        operations = (operations as f64 * wanted) as usize + 8;
    }
}

fn run(case: &Case, min_ns: f64) {
    std::thread::spawn(|| loop {
        std::thread::sleep(Duration::from_secs(3600)); // the idle second thread
    });
    let fixture = (case.open)();
    let fixture = fixture.as_ref();
    let sample = if case.batch > 0 {
        if !case.measured {
            block(case, fixture, case.batch);
        }
        run_batches(case, fixture, min_ns)
    } else {
        block(case, fixture, 4096);
        run_block(case, fixture, min_ns)
    };
    let each = sample.operations as f64;
    let all = each * if case.pair { 2.0 } else { 1.0 };
    print!(
        "{NAME}\t{}\t{:.4}\t{:.6}\t{:.6}",
        case.name,
        sample.ns / each,
        sample.allocs as f64 / all,
        sample.bytes as f64 / all
    );
    for (name, value) in &sample.extra {
        print!("\t{name}={value:.4}");
    }
    println!();
}

fn usage(wrong: &str) -> ! {
    eprintln!("{NAME}: {wrong}\nusage: --about | --list | --case NAME [--min-time SECONDS]");
    std::process::exit(2)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let all = cases::all();
    let (name, seconds) = match words[..] {
        ["--about"] => return println!("{NAME}\t{}\t{BLIND}", env!("RIVAL_VERSION")),
        ["--list"] => return all.iter().for_each(|case| println!("{}", case.name)),
        ["--case", name] => (name, "0.1"),
        ["--case", name, "--min-time", seconds] => (name, seconds),
        _ => usage("unknown arguments"),
    };
    let seconds: f64 = seconds.parse().unwrap_or(0.0);
    if seconds.is_nan() || seconds <= 0.0 {
        usage("--min-time wants seconds");
    }
    match all.iter().find(|case| case.name == name) {
        Some(case) => run(case, seconds * 1e9),
        None => usage("no such case; --list names them"),
    }
}
