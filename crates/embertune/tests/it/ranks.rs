//! Ranks that are threads of one process, so that tests of training on several ranks need no MPI; and what all transports have to do.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use embertune::comm::{self, Communicator, Counted, Traffic, Wire, by_first, gather};
use embertune::loss::{InfoNce, Loss, Negatives};
use embertune::train::objective::Objective;
use embertune::train::step::MicroBatch;
use embertune::{Error, Result};
use embertune_kernels::Ops;
use embertune_kernels::reference::Reference;
use embertune_kernels::testing::{assert_close, seeded};
use serde_json::Value;

use crate::golden;

/// Far more than a step of these tests takes.
const LIMIT: Duration = Duration::from_secs(60);

/// One rank, with a channel to and from each.
pub struct ThreadRank {
    rank: usize,
    to: Vec<Sender<Vec<u8>>>,
    from: Vec<Mutex<Receiver<Vec<u8>>>>,
    limit: Duration,
    is_broken: AtomicBool,
    pub n_sent_bytes: AtomicUsize,
}

impl Communicator for ThreadRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.to.len()
    }

    fn host(&self, rank: usize) -> &str {
        ["anna", "bela", "cleo", "dora"][rank]
    }

    fn exchange(&self, outgoing: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        assert_eq!(outgoing.len(), self.size());
        assert!(!self.is_broken.load(Relaxed), "nothing is sent after an error");
        for (rank, (to, bytes)) in self.to.iter().zip(outgoing).enumerate() {
            if rank != self.rank {
                self.n_sent_bytes.fetch_add(bytes.len(), Relaxed);
            }
            // A rank that is gone is found out when it sends nothing.
            let _ = to.send(bytes.to_vec());
        }
        let receive = |(rank, from): (usize, &Mutex<Receiver<Vec<u8>>>)| {
            from.lock().unwrap().recv_timeout(self.limit).map_err(|error| {
                self.is_broken.store(true, Relaxed);
                let problem = match error {
                    RecvTimeoutError::Timeout => "sends nothing",
                    RecvTimeoutError::Disconnected => "has ended",
                };
                self.blame(rank, problem.into(), None)
            })
        };
        self.from.iter().enumerate().map(receive).collect()
    }
}

/// What `work` gives on each of `n` ranks.
pub fn on_ranks<T: Send>(n: usize, work: impl Fn(ThreadRank) -> T + Sync) -> Vec<T> {
    on_ranks_within(LIMIT, n, work)
}

fn on_ranks_within<T: Send>(limit: Duration, n: usize, work: impl Fn(ThreadRank) -> T + Sync) -> Vec<T> {
    let (mut to, mut from) = (vec![Vec::new(); n], Vec::new());
    for _ in 0..n {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..n).map(|_| channel()).unzip();
        to.iter_mut().zip(senders).for_each(|(to, sender)| to.push(sender));
        from.push(receivers.into_iter().map(Mutex::new).collect());
    }
    let ranks = to.into_iter().zip(from).enumerate().map(|(rank, (to, from))| ThreadRank {
        rank,
        to,
        from,
        limit,
        is_broken: AtomicBool::new(false),
        n_sent_bytes: AtomicUsize::new(0),
    });
    thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = ranks.map(|rank| scope.spawn(move || work(rank))).collect();
        running.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn a_sum_is_taken_in_the_order_of_the_ranks_with_the_same_bits_on_all() {
    for n in 1..=4 {
        for len in [0, 1, 3, 1000] {
            let addends: Vec<_> = (0..n).map(|rank| seeded(len, rank as u64)).collect();
            let expected: Vec<f32> =
                (0..len).map(|i| addends[1..].iter().fold(addends[0][i], |sum, addend| sum + addend[i])).collect();
            let sums = on_ranks(n, |ranks| {
                let mut values = addends[ranks.rank()].clone();
                ranks.all_reduce(&mut values, Wire::Fp32).unwrap();
                let n_sent_bytes = ranks.n_sent_bytes.load(Relaxed);
                (values, ranks.reduce_scatter(&addends[ranks.rank()], Wire::Fp32).unwrap(), n_sent_bytes)
            });
            for (rank, (sum, share, n_sent_bytes)) in sums.into_iter().enumerate() {
                assert!(sum == expected, "{len} values on {n} ranks");
                assert!(share == expected[comm::share(len, rank, n)], "the share of {rank} of {n}");
                // Whoever adds up the larger parts sends a value more.
                assert!(n_sent_bytes <= 4 * 2 * (n - 1) * len.div_ceil(n), "{n_sent_bytes} bytes");
            }
        }
    }
}

#[test]
fn in_bf16_half_as_much_is_sent_and_all_ranks_have_the_same_rounded_sum() {
    let rounded = |x: f32| {
        let mut back = [0.0];
        Wire::Bf16.read(&Wire::Bf16.to_bytes(&[x]), &mut back, |place, x| *place = x);
        back[0]
    };
    for n in 2..=4 {
        let len = 1001;
        let addends: Vec<_> = (0..n).map(|rank| seeded(len, rank as u64)).collect();
        let sum = |i: usize| addends[1..].iter().fold(rounded(addends[0][i]), |sum, addend| sum + rounded(addend[i]));
        let expected: Vec<_> = (0..len).map(|i| rounded(sum(i))).collect();
        let sums = on_ranks(n, |ranks| {
            let mut values = addends[ranks.rank()].clone();
            ranks.all_reduce(&mut values, Wire::Bf16).unwrap();
            (values, ranks.n_sent_bytes.load(Relaxed))
        });
        for (sum, n_sent_bytes) in sums {
            assert!(sum == expected, "on {n} ranks");
            assert!(n_sent_bytes <= 2 * 2 * (n - 1) * len.div_ceil(n), "{n_sent_bytes} bytes");
        }
    }
}

#[test]
fn ranks_of_one_machine_are_numbered_in_it() {
    let local = on_ranks(4, |ranks| {
        let machines = OnMachines { ranks: &ranks, of_rank: ["anna", "bela", "anna", "anna"] };
        (machines.local_rank(), machines.n_on_host())
    });
    assert_eq!(local, [(0, 3), (0, 1), (1, 3), (2, 3)]);
}

/// The same ranks on other machines.
struct OnMachines<'a> {
    ranks: &'a ThreadRank,
    of_rank: [&'static str; 4],
}

impl Communicator for OnMachines<'_> {
    fn rank(&self) -> usize {
        self.ranks.rank()
    }

    fn size(&self) -> usize {
        self.ranks.size()
    }

    fn host(&self, rank: usize) -> &str {
        self.of_rank[rank]
    }

    fn exchange(&self, outgoing: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        self.ranks.exchange(outgoing)
    }
}

#[test]
fn rows_come_in_the_order_of_the_ranks_however_many_each_has() {
    let all = on_ranks(3, |ranks| {
        let own: Vec<_> = (0..2 * ranks.rank()).map(|i| (10 * ranks.rank() + i) as f32).collect();
        let of_first = ranks.broadcast(format!("of {}", ranks.rank()).as_bytes()).unwrap();
        ranks.barrier().unwrap();
        (ranks.all_gather(&own).unwrap(), of_first)
    });
    for (rows, of_first) in all {
        assert_eq!((rows, of_first), (vec![10.0, 11.0, 20.0, 21.0, 22.0, 23.0], b"of 0".to_vec()));
    }
}

#[test]
fn of_a_failure_rank_0_hears_and_the_others_only_end() {
    let failure = || Error::Setting { problem: "too much".into(), hint: Some("less".into()) };
    for failing in 0..3 {
        let all = on_ranks(3, |ranks| {
            let own = if ranks.rank() == failing { Err(failure()) } else { Ok(ranks.rank()) };
            gather(&ranks, own).unwrap_err()
        });
        let said = if failing == 0 {
            "too much".into()
        } else {
            format!("rank {failing} on {}: too much", ["", "bela", "cleo"][failing])
        };
        assert_eq!((all[0].to_string(), all[0].hint()), (said, Some("less")));
        assert!(all[1..].iter().all(|error| matches!(error, Error::Ended)));
    }
    let all = on_ranks(2, |ranks| by_first(&ranks, || if ranks.rank() == 0 { Err(failure()) } else { Ok(1) }));
    assert!(matches!(all[..], [Err(Error::Setting { .. }), Err(Error::Ended)]));
    let all = on_ranks(2, |ranks| gather(&ranks, Ok(ranks.rank())).unwrap());
    assert_eq!(all, [[0, 1], [0, 1]]);
}

#[test]
fn what_is_sent_and_received_is_counted() {
    let all = on_ranks(3, |ranks| {
        let counted = Counted::new(&ranks);
        let own = vec![0.5; 10 * (1 + ranks.rank())];
        assert_eq!(counted.all_gather(&own).unwrap().len(), 60);
        let Traffic { sent_bytes, received_bytes, .. } = counted.so_far();
        assert_eq!(sent_bytes as usize, ranks.n_sent_bytes.load(Relaxed));
        (sent_bytes, received_bytes)
    });
    assert_eq!(all, [(2 * 40, 200), (2 * 80, 160), (2 * 120, 120)]);
}

#[test]
fn what_rank_0_hands_out_it_sends_twice_at_most() {
    let all = on_ranks(4, |ranks| {
        let own: Vec<u8> = (0..=200).collect();
        let own = if ranks.rank() == 0 { own } else { vec![7] };
        (ranks.broadcast(&own).unwrap(), ranks.n_sent_bytes.load(Relaxed))
    });
    for (rank, (found, n_sent_bytes)) in all.into_iter().enumerate() {
        assert_eq!(found, (0..=200).collect::<Vec<u8>>(), "rank {rank}");
        assert!(n_sent_bytes <= 2 * found.len(), "{n_sent_bytes} bytes from rank {rank}");
    }
}

#[test]
fn a_rank_that_is_gone_or_hangs_is_named_and_nobody_waits_for_ever() {
    let gone = on_ranks(3, |ranks| if ranks.rank() == 1 { None } else { ranks.barrier().err() });
    let hanging = on_ranks_within(Duration::from_millis(100), 3, |ranks| {
        if ranks.rank() == 1 {
            thread::sleep(Duration::from_millis(400));
            return None;
        }
        ranks.barrier().err()
    });
    for (errors, problem) in [(gone, "has ended"), (hanging, "sends nothing")] {
        let said: Vec<_> = errors.iter().flatten().map(Error::to_string).collect();
        assert_eq!(said, [format!("rank 1 on bela: {problem}"), format!("rank 1 on bela: {problem}")]);
    }
}

/// Error of a gradient over the case's largest gradient; noise 1.9e-6 (golden README).
const GRADIENT: f64 = 2e-5;
/// Relative error of a loss.
const VALUE: f64 = 1e-5;

#[test]
fn gradients_of_each_rank_equal_those_of_torch_on_several_processes() {
    let (Some(json), Some(tensors)) = (golden::json("losses.json"), golden::tensors("losses.safetensors")) else {
        return;
    };
    let cases: Vec<&Value> =
        json["cases"].as_array().unwrap().iter().filter(|case| case["params"]["world"].is_u64()).collect();
    assert!(!cases.is_empty());
    let dim = 32;
    for case in cases {
        let n = case["params"]["world"].as_u64().unwrap() as usize;
        let of = |what: &str, name: &str, rank: usize| {
            tensors[case[what][format!("{name}{rank}")].as_str().unwrap()].1.clone()
        };
        let loss = Loss::InfoNce(InfoNce::new(Negatives::InBatch, case["params"]["T"].as_f64().unwrap()));
        let objective = Objective::new(loss);
        on_ranks(n, |ranks| {
            let ops = Reference::<f32>::new();
            let own = ["q", "p"].map(|name| of("inputs", name, ranks.rank()));
            let unit = own.each_ref().map(|values| ops.normalize_forward(values, dim));
            let [queries, passages] = unit.each_ref().map(|values| ranks.all_gather(values).unwrap());
            let (n_queries, n_passages) = (queries.len() / dim, passages.len() / dim);
            let micro = MicroBatch {
                batch: Default::default(),
                numbers: Vec::new(),
                places: (0..(n_queries + n_passages) as u32).collect(),
                group_sizes: vec![n_passages / n_queries; n_queries],
                excluded: vec![false; n_queries * n_passages],
                scores: Vec::new(),
                guide: Vec::new(),
            };
            let judged = objective.judge(&micro, &[queries, passages].concat(), dim);
            let value = case["loss_f64"].as_f64().or(case["loss"].as_f64()).unwrap();
            assert_close(&[judged.loss], &[value], 0.0, VALUE);
            let (d_queries, d_passages) = judged.d_embeddings.split_at(n_queries * dim);
            for ((name, d), own) in [("q", d_queries), ("p", d_passages)].into_iter().zip(&own) {
                let d_own = d[ranks.rank() * own.len()..][..own.len()].to_vec();
                let expected = of("grads", name, ranks.rank());
                let largest = expected.iter().fold(0.0_f32, |largest, g| largest.max(g.abs()));
                assert_close(&ops.normalize_backward(&d_own, own, dim), &expected, GRADIENT * f64::from(largest), 0.0);
            }
        });
    }
}
