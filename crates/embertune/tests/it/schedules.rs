//! Learning rates against transformers' (`tests/golden/make_schedules.py`).

use embertune::optim::{Schedule, SchedulerKwargs};

use crate::golden;

/// Both compute in f64, with operations in another order.
const TOLERANCE: f64 = 1e-12;

#[test]
fn every_schedule_equals_transformers() {
    let Some(golden) = golden::json("schedules.json") else { return };
    let total_steps = golden["total_steps"].as_u64().unwrap() as usize;
    let peak = golden["learning_rate"].as_f64().unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let kwargs: SchedulerKwargs = serde_json::from_value(case["kwargs"].clone()).unwrap();
        let warmup = case["warmup_steps"].as_u64().unwrap() as usize;
        let kind = case["name"].as_str().unwrap().parse().unwrap();
        let schedule = Schedule::new(kind, &kwargs, peak, warmup, total_steps).unwrap();
        for (step, expected) in case["rates"].as_array().unwrap().iter().enumerate() {
            let (got, expected) = (schedule.learning_rate(step), expected.as_f64().unwrap());
            assert!((got - expected).abs() <= TOLERANCE * peak, "{case}\nstep {step}: {got} instead of {expected}");
        }
    }
}

#[test]
fn a_decay_of_a_tenth_is_the_default() {
    let (kind, default) = ("warmup_stable_decay".parse().unwrap(), SchedulerKwargs::default());
    let given = SchedulerKwargs { num_decay_steps: Some(3), ..SchedulerKwargs::default() };
    let [default, given] = [default, given].map(|kwargs| Schedule::new(kind, &kwargs, 1.0, 4, 25).unwrap());
    (0..25).for_each(|step| assert_eq!(default.learning_rate(step), given.learning_rate(step)));
    assert_eq!((default.learning_rate(21), default.learning_rate(22)), (1.0, 1.0));
    assert!(default.learning_rate(23) < 1.0);
}
