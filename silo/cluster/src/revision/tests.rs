//! Upgrades, downgrades and permissions by example, and what no sequence of them may break.

use super::*;

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A plan of this text with these steps (name, shape, drops) and kinds.
fn content(plan: &str, steps: &[(&str, &str, u32)], kinds: &[(&str, u32)]) -> Content {
    let step = |(name, shape, drops): &(&str, &str, u32)| {
        ((*name).to_owned(), StepState { shape: (*shape).to_owned(), drops: *drops })
    };
    Content {
        plan: plan.to_owned(),
        steps: steps.iter().map(step).collect(),
        kinds: kinds.iter().map(|(name, version)| ((*name).to_owned(), *version)).collect(),
        sources: names(&["readings"]),
        streams: names(&["results", "late"]),
    }
}

fn first() -> Content {
    content("one", &[("totals", "5s", 0)], &[("Counter", 1)])
}

fn register(registry: &mut Registry, content: &Content) -> Registered {
    registry.register(content, &BTreeSet::new()).unwrap_or_else(|refused| panic!("{refused}"))
}

/// Revision and generation of a registration that may own slots.
fn runs(registry: &mut Registry, content: &Content) -> (u64, u64) {
    let Registered { program, outdated } = register(registry, content);
    assert!(outdated.is_empty(), "{outdated:?}");
    (program.revision.0, program.generation.0)
}

#[test]
fn revisions_that_read_each_others_state_are_of_one_generation() {
    let mut registry = Registry::default();
    assert_eq!(runs(&mut registry, &first()), (1, 1));
    assert_eq!(runs(&mut registry, &first()), (1, 1), "the same content has the same number");
    let other_text = Content { plan: "two".into(), ..first() };
    assert_eq!(runs(&mut registry, &other_text), (2, 1));
    assert_eq!(runs(&mut registry, &first()), (1, 1), "and back");
    assert_eq!(runs(&mut registry, &other_text), (2, 1), "and forth");
}

#[test]
fn a_raised_version_begins_the_next_generation_and_a_lower_one_is_outdated() {
    let mut registry = Registry::default();
    runs(&mut registry, &first());
    let raised = content("one", &[("totals", "5s", 0)], &[("Counter", 2)]);
    assert_eq!(runs(&mut registry, &raised), (2, 2));
    let old = register(&mut registry, &first());
    assert_eq!((old.program.revision.0, old.program.generation.0), (1, 1));
    assert_eq!(old.outdated, ["kind `Counter` has state version 1, stored is version 2"]);
    assert_eq!(runs(&mut registry, &raised), (2, 2), "who is outdated changes nothing");
    let stranger = Content { plan: "never seen".into(), ..first() };
    let refused = registry.register(&stranger, &BTreeSet::new()).unwrap_err();
    assert!(refused.to_string().contains("Start the newer program"), "{refused}");
}

#[test]
fn a_changed_shape_is_refused_unless_its_state_is_dropped() {
    let mut registry = Registry::default();
    runs(&mut registry, &first());
    let changed = content("one", &[("totals", "10s", 0)], &[("Counter", 1)]);
    let refused = registry.register(&changed, &BTreeSet::new()).unwrap_err().to_string();
    for part in ["step `totals`", "stored: 5s", "wanted: 10s", "`drop_state: 1`"] {
        assert!(refused.contains(part), "{refused}");
    }
    let dropped = content("one", &[("totals", "10s", 1)], &[("Counter", 1)]);
    assert_eq!(runs(&mut registry, &dropped), (2, 2));
    assert_eq!(runs(&mut registry, &dropped), (2, 2), "the permission is used once");
    let changed_again = content("one", &[("totals", "20s", 1)], &[("Counter", 1)]);
    let refused = registry.register(&changed_again, &BTreeSet::new()).unwrap_err().to_string();
    assert!(refused.contains("`drop_state: 2`"), "{refused}");
    let old = register(&mut registry, &first());
    assert_eq!(old.outdated, ["step `totals` has drop_state 0, the stored state 1"]);
    let back = content("one", &[("totals", "5s", 2)], &[("Counter", 1)]);
    assert_eq!(runs(&mut registry, &back), (3, 3), "back to the old shape, with nothing");
}

#[test]
fn what_is_new_begins_a_generation_and_is_numbered_behind_what_is_known() {
    let mut registry = Registry::default();
    runs(&mut registry, &first());
    let mut more = first();
    more.streams = names(&["alarms", "results", "late"]);
    more.sources = names(&["doors", "readings"]);
    assert_eq!(runs(&mut registry, &more), (2, 2));
    assert_eq!(registry.streams(), names(&["results", "late", "alarms"]));
    assert_eq!(registry.sources(), names(&["readings", "doors"]));
    assert_eq!(runs(&mut registry, &first()), (1, 2), "who knows the numbers may do without them");
    assert_eq!(registry.streams().len(), 3, "a number is for ever");
    let more_kinds = content("one", &[("totals", "5s", 0)], &[("Counter", 1), ("Meter", 1)]);
    assert_eq!(runs(&mut registry, &more_kinds), (3, 3));
}

#[test]
fn what_is_missing_is_left_out_on_purpose_or_makes_a_silo_outdated() {
    let mut registry = Registry::default();
    let both = content("one", &[("totals", "5s", 0), ("peaks", "1h", 0)], &[("Counter", 1), ("Meter", 3)]);
    runs(&mut registry, &first());
    assert_eq!(runs(&mut registry, &both), (2, 2));
    let outdated = register(&mut registry, &first()).outdated;
    assert_eq!(outdated.len(), 2, "{outdated:?}");
    assert!(
        outdated[0].contains("no step `peaks`") && outdated[1].contains("no kind `Meter`"),
        "{outdated:?}"
    );
    let on_purpose = BTreeSet::from(["peaks".to_owned(), "Meter".to_owned()]);
    let back = registry.register(&first(), &on_purpose).unwrap();
    assert_eq!((back.program.revision.0, back.program.generation.0), (1, 3));
    assert_eq!(runs(&mut registry, &first()), (1, 3), "it needs to be said once");
    let outdated = register(&mut registry, &both).outdated;
    assert!(outdated[0].contains("has a gap") && outdated[0].contains("`drop_state: 1`"), "{outdated:?}");
    let anew = content("one", &[("totals", "5s", 0), ("peaks", "1h", 1)], &[("Counter", 1), ("Meter", 3)]);
    assert_eq!(runs(&mut registry, &anew), (3, 4), "a kind's state has no gap, a step's begins anew");
}

#[test]
fn the_oldest_revision_is_forgotten_first() {
    let mut registry = Registry::default();
    for i in 0..=REVISIONS_MAX {
        runs(&mut registry, &Content { plan: i.to_string(), ..first() });
    }
    assert_eq!(registry.revisions().len(), REVISIONS_MAX);
    assert_eq!(registry.revisions()[0].number, RevisionNo(2));
    let again = Content { plan: "0".into(), ..first() };
    assert_eq!(runs(&mut registry, &again).0, REVISIONS_MAX as u64 + 2);
}

/// Random contents in any order: two silos of one generation read the same state and know the same numbers; numbers never
/// change; a generation never comes back.
#[test]
fn one_generation_reads_one_state() {
    let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
    let mut roll = |sides: u64| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        (dice >> 11) % sides
    };
    let mut registry = Registry::default();
    let mut read = BTreeMap::new();
    let (mut ran, mut refused) = (0, 0);
    for _ in 0..5_000 {
        let mut wanted = Content { plan: roll(2).to_string(), ..Content::default() };
        for step in ["a", "b"] {
            let near = registry.steps.get(step).map_or(0, |held| held.state.drops);
            let drops = (u64::from(near) + u64::from(roll(4) == 0)).saturating_sub(u64::from(roll(6) == 0));
            if roll(5) > 0 {
                let shape = if roll(8) == 0 { "new" } else { "old" }.to_owned();
                wanted.steps.insert(step.to_owned(), StepState { shape, drops: drops as u32 });
            }
        }
        let version = registry.kinds.get("K").map_or(1, |held| held.state) + u32::from(roll(8) == 0);
        wanted.kinds.insert("K".to_owned(), version - u32::from(version > 1 && roll(6) == 0));
        for i in 0..roll(4) {
            wanted.streams.push(format!("s{}", (i + roll(3)) % 4));
        }
        let on_purpose = if roll(3) == 0 { BTreeSet::from(["a".to_owned()]) } else { BTreeSet::new() };
        let before = registry.clone();
        let Ok(Registered { program, outdated }) = registry.register(&wanted, &on_purpose) else {
            refused += 1;
            assert_eq!(registry, before, "who is refused changes nothing");
            continue;
        };
        assert!(registry.streams().starts_with(before.streams()), "a number is for ever");
        assert!(registry.generation() >= before.generation());
        if !outdated.is_empty() {
            assert!(program.generation < registry.generation(), "{outdated:?}");
            assert_eq!(registry, before, "who is outdated changes nothing");
            continue;
        }
        ran += 1;
        assert_eq!(program.generation, registry.generation());
        assert!(wanted.streams.iter().all(|name| registry.streams().contains(name)));
        let state = (wanted.steps.clone(), wanted.kinds.clone());
        let of_generation = read.entry(program.generation.0).or_insert_with(|| state.clone());
        assert_eq!(*of_generation, state, "generation {}", program.generation);
    }
    assert!(ran > 500 && refused > 100, "{ran} ran, {refused} were refused");
}
