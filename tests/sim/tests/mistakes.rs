//! Known mistakes, planted one at a time: the simulation must find each of them, and the same runs hold without it.

use granary_cluster::Defect;
use granary_sim::run::run;
use granary_sim::scenario::{Mistake, Scenario};

/// More seeds than any of them needs.
const SEEDS_MAX: u64 = 50_000;

/// The mistake shows itself by these words within so many seeds, and the seed that shows it holds without the mistake.
fn must_find(mistake: Mistake, words: &str, seeds: u64) {
    let shows = |seed| {
        let planted = |random: &mut _| Scenario { mistake: Some(mistake), ..Scenario::cluster(random) };
        run(seed, planted).err().map(|failed| failed.what).filter(|what| what.contains(words))
    };
    let found = (0..seeds).find_map(|seed| shows(seed).map(|what| (seed, what)));
    let (seed, what) = found.unwrap_or_else(|| panic!("{mistake:?} was not found in {seeds} seeds"));
    println!("{mistake:?}: seed {seed}: {what}");
    if let Err(failed) = run(seed, Scenario::cluster) {
        panic!("without {mistake:?}, too: {failed}");
    }
}

macro_rules! mistakes {
    ($($name:ident: $mistake:expr, $words:expr;)+) => {
        $(
            #[test]
            fn $name() {
                must_find($mistake, $words, SEEDS_MAX);
            }
        )+
    };
}

mistakes! {
    skip_epoch_check: Mistake::SkipEpochCheck, "invariant chain";
    skip_run_check: Mistake::SkipRunCheck, "invariant once";
    rebuild_commit: Mistake::RebuildCommit, "it must be";
    publish_before_commit: Mistake::Slot(Defect::PublishBeforeCommit), "published and was never stored";
    forget_marker: Mistake::Slot(Defect::ForgetMarker), "invariant once";
    reply_before_commit: Mistake::Slot(Defect::ReplyBeforeCommit), "invariant acknowledged";
    trim_early: Mistake::Slot(Defect::TrimEarly), "it must be";
    give_open_transaction: Mistake::Slot(Defect::GiveOpenTransaction), "invariant once";
    fence_last_owner_only: Mistake::Slot(Defect::FenceLastOwnerOnly), "invariant once";
    reinit_without_reread: Mistake::Slot(Defect::ReinitWithoutReread), "invariant once";
    skip_marker_reread: Mistake::Slot(Defect::SkipMarkerReread), "invariant once";
    compare_numbers_only: Mistake::Slot(Defect::CompareNumbersOnly), "invariant once";
    continue_at_store_n: Mistake::Slot(Defect::ContinueAtStoreN), "does not get done";
    marker_goes_back: Mistake::Slot(Defect::MarkerGoesBack), "invariant marker";
}
