//! Histories made by hand, with the verdict a person gives.

use granary_history::{
    Counter, CounterInput, History, Model, NEVER, Operation, Outcome, Register, RegisterInput,
    RegisterOutput, VISITED_STATES, Verdict, check,
};

type Outcomes<M> = Outcome<<M as Model>::Output>;
type Row<M> = (u64, u64, <M as Model>::Input, Outcomes<M>);

/// A history of the key "k" from rows of begin, end, input and outcome; the times in ms.
fn history<M: Model>(rows: &[Row<M>]) -> History<&'static str, M::Input, M::Output> {
    let mut history = History::new();
    for (process, (from, to, input, outcome)) in (1..).zip(rows) {
        let (invoked_at, returned_at) = (from * 1_000_000, to * 1_000_000);
        let (input, outcome) = (input.clone(), outcome.clone());
        history.push(Operation { process, key: "k", input, outcome, invoked_at, returned_at });
    }
    history
}

type VerdictOf<M> = Verdict<&'static str, <M as Model>::Input, <M as Model>::Output>;

fn verdict<M: Model>(rows: &[Row<M>]) -> VerdictOf<M> {
    check::<M, _>(&history::<M>(rows), VISITED_STATES)
}

fn is_linearizable<M: Model>(rows: &[Row<M>]) -> bool {
    let verdict = verdict::<M>(rows);
    assert!(verdict.is_linearizable() || verdict.is_violated(), "{verdict}");
    verdict.is_linearizable()
}

use CounterInput::{Add, Read};
use Outcome::{Answered, NotRun, Unknown};

#[test]
fn a_history_without_operations() {
    assert!(is_linearizable::<Counter>(&[]));
    assert!(is_linearizable::<Counter>(&[(0, 1, Add(1), NotRun), (0, 1, Add(1), Unknown)]));
}

#[test]
fn one_after_the_other() {
    let rows = [(0, 1, Add(2), Answered(2)), (2, 3, Add(3), Answered(5)), (4, 5, Read, Answered(5))];
    assert!(is_linearizable::<Counter>(&rows));
    assert!(!is_linearizable::<Counter>(&[(0, 1, Add(2), Answered(2)), (2, 3, Read, Answered(0))]));
    assert!(!is_linearizable::<Counter>(&[(0, 1, Read, Answered(1))]), "out of thin air");
}

#[test]
fn beside_each_other_both_orders_are_allowed() {
    for read in [0, 2] {
        assert!(is_linearizable::<Counter>(&[(0, 10, Add(2), Answered(2)), (1, 9, Read, Answered(read))]));
    }
    assert!(!is_linearizable::<Counter>(&[(0, 10, Add(2), Answered(2)), (1, 9, Read, Answered(1))]));
    let touching = [(0, 5, Add(2), Answered(2)), (5, 9, Read, Answered(0))];
    assert!(is_linearizable::<Counter>(&touching), "at one instant they are beside each other");
}

#[test]
fn two_reads_beside_an_addition_do_not_go_back() {
    let rows = |first, second| {
        [(0, 10, Add(1), Answered(1)), (1, 2, Read, Answered(first)), (3, 4, Read, Answered(second))]
    };
    assert!(is_linearizable::<Counter>(&rows(0, 1)));
    assert!(!is_linearizable::<Counter>(&rows(1, 0)), "new then old");
}

#[test]
fn an_unknown_addition_happens_late_or_never_but_once() {
    let rows = |first, second| {
        [(0, 1, Add(5), Unknown), (2, 3, Read, Answered(first)), (4, 5, Read, Answered(second))]
    };
    assert!(is_linearizable::<Counter>(&rows(0, 0)), "never");
    assert!(is_linearizable::<Counter>(&rows(0, 5)), "after its client gave up");
    assert!(is_linearizable::<Counter>(&rows(5, 5)), "before");
    assert!(!is_linearizable::<Counter>(&rows(5, 0)), "not undone");
    assert!(!is_linearizable::<Counter>(&rows(5, 10)), "not twice");
    let early = [(0, 1, Read, Answered(5)), (2, NEVER / 2_000_000, Add(5), Unknown)];
    assert!(!is_linearizable::<Counter>(&early), "not before it began");
    let twins = [(0, 1, Add(5), Unknown), (6, 7, Add(5), Unknown), (8, 9, Read, Answered(10))];
    assert!(is_linearizable::<Counter>(&twins), "each once");
}

#[test]
fn what_was_not_run_shows_nowhere() {
    assert!(is_linearizable::<Counter>(&[(0, 1, Add(5), NotRun), (2, 3, Read, Answered(0))]));
    assert!(!is_linearizable::<Counter>(&[(0, 1, Add(5), NotRun), (2, 3, Read, Answered(5))]));
}

#[test]
fn a_counter_stays_at_the_largest_number() {
    let most = u64::MAX;
    let rows =
        [(0, 1, Add(most), Answered(most)), (2, 3, Add(7), Answered(most)), (4, 5, Read, Answered(most))];
    assert!(is_linearizable::<Counter>(&rows));
}

fn set(expected: Option<u64>, new: u64) -> RegisterInput {
    RegisterInput::CompareAndSet { expected, new }
}

fn value(value: u64) -> Outcome<RegisterOutput> {
    Answered(RegisterOutput::Value(Some(value)))
}

#[test]
fn a_register() {
    let written = Answered(RegisterOutput::Written);
    let changed = |is_changed| Answered(RegisterOutput::Changed(is_changed));
    let write = RegisterInput::Write;
    let read = RegisterInput::Read;
    let one_wins = [(0, 9, set(None, 1), changed(true)), (0, 9, set(None, 2), changed(false))];
    assert!(is_linearizable::<Register>(&one_wins));
    let both_win = [(0, 9, set(None, 1), changed(true)), (0, 9, set(None, 2), changed(true))];
    assert!(!is_linearizable::<Register>(&both_win));
    let aba = [
        (0, 1, write(1), written.clone()),
        (2, 3, write(2), Unknown),
        (4, 5, read.clone(), value(2)),
        (4, 9, write(1), written.clone()),
        (10, 11, set(Some(1), 3), changed(true)),
        (12, 13, read.clone(), value(3)),
    ];
    assert!(is_linearizable::<Register>(&aba));
    let overwritten = [
        (0, 1, write(1), written.clone()),
        (2, 3, write(2), written),
        (4, 5, read.clone(), value(2)),
        (6, 7, read, value(1)),
    ];
    assert!(!is_linearizable::<Register>(&overwritten));
}

#[test]
fn an_order_of_two_readers_that_disagree() {
    let written = || Answered(RegisterOutput::Written);
    let read = RegisterInput::Read;
    let rows = [
        (0, 100, RegisterInput::Write(1), written()),
        (0, 100, RegisterInput::Write(2), written()),
        (10, 20, read.clone(), value(1)),
        (30, 40, read.clone(), value(2)),
        (15, 25, read.clone(), value(2)),
        (50, 60, read, value(1)),
    ];
    assert!(!is_linearizable::<Register>(&rows));
    assert!(is_linearizable::<Register>(&rows[..5]));
}

#[test]
fn keys_are_apart_and_the_wrong_one_is_named() {
    let mut history = History::new();
    for (key, total) in [("left", 1), ("right", 2), ("up", 1)] {
        let (input, outcome) = (Add(1), Answered(total));
        history.push(Operation { process: 1, key, input, outcome, invoked_at: 0, returned_at: 9 });
    }
    let Verdict::Violated(violation) = check::<Counter, _>(&history, VISITED_STATES) else {
        panic!("violated")
    };
    assert_eq!(violation.refused.key, "right");
}

#[test]
fn a_violation_reads_well() {
    let rows = [
        (0, 1, Add(1), Answered(1)),
        (2, 3, Add(2), Answered(3)),
        (2, 8, Add(4), Unknown),
        (4, 9, Add(1), Answered(4)),
        (5, 7, Read, Answered(1)),
        (20, 21, Read, Answered(4)),
    ];
    let expected = "\
not linearizable: key \"k\": no order of what ended before has room for
    5.000000 to 7.000000 ms  client 5  Read answered 1
  it could have met the state: 3
  ended last before it began:
    0.000000 to 1.000000 ms  client 1  Add(1) answered 1
    2.000000 to 3.000000 ms  client 2  Add(2) answered 3
  ran beside it:
    4.000000 to 9.000000 ms  client 4  Add(1) answered 4
  may have happened, the last first:
    2.000000 to 8.000000 ms  client 3  Add(4) has an unknown outcome
";
    assert_eq!(verdict::<Counter>(&rows).to_string(), expected);
}

/// Many writes beside each other and a read of what nobody wrote: every set and every order of them is a state.
#[test]
fn what_is_too_much_is_undecided() {
    let written = Answered(RegisterOutput::Written);
    let mut rows: Vec<Row<Register>> =
        (0..24).map(|n| (0, 100 + n, RegisterInput::Write(n), written.clone())).collect();
    rows.push((0, 100, RegisterInput::Read, value(99)));
    let verdict = check::<Register, _>(&history::<Register>(&rows), 10_000);
    let Verdict::Undecided { key: "k", visited } = verdict else { panic!("{verdict}") };
    assert!((10_000..11_000).contains(&visited), "{visited}");
    assert!(verdict.to_string().starts_with("undecided: key \"k\""), "{verdict}");
}

#[test]
#[should_panic(expected = "an operation ends at 1 ns, before it begins at 2 ns")]
fn times_of_two_clocks_are_refused() {
    let outcome = Answered(0);
    History::new().push(Operation {
        process: 0,
        key: 0,
        input: Read,
        outcome,
        invoked_at: 2,
        returned_at: 1,
    });
}
