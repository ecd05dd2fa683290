//! `facelatch eval`: how well the models tell people apart, on pictures of known people.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Value, json};

use super::{
    CommandError,
    arguments::EvalArguments,
    exit,
    measure::{Chosen, FUSIONS, embed, narrow, rate_name, rows, undetected, write_pictures},
    populations::{self, Group, Groups},
    print, visits,
};
use crate::{
    eval::{
        collection::{self, Collection, Pair, Pairs},
        plot,
        scale::Scale,
        statistics::{self, Comparison, Distances, OperatingPoint, RATES},
    },
    triplet::Random,
};

/// Folds where no list of pairs says how many.
const FOLDS: usize = 10;
/// Of pictures without a face, so many are named.
const NAMED: usize = 10;
/// The rate whose distance is drawn into the histogram.
const DRAWN: f64 = 1e-4;
/// The distance of a pair of which one picture shows no face: as far as can be, so never a match.
const FARTHEST: f32 = 2.0;

/// All that was measured.
struct Measured {
    pictures: usize,
    people: usize,
    undetected: Vec<String>,
    /// Comparisons that gave the accuracy, their folds, and where they come from.
    pairs: usize,
    folds: usize,
    listed: bool,
    accuracy: Option<(f64, f64)>,
    /// Every picture with a face against every other.
    all: Distances,
    fusions: Vec<((usize, usize), Distances)>,
    scale: Scale,
}

/// Measures, prints and draws.
pub(super) fn run(arguments: &EvalArguments, config: &Path, json: bool) -> Result<u8, CommandError> {
    match &arguments.images[..] {
        folders if arguments.table => {
            populations::print_table(&Chosen::new(&arguments.model, config)?, folders, &arguments.no_limit, json)
        }
        [] => visits::run(arguments, config, json),
        [images] => one_folder(arguments, images, config, json),
        _ if arguments.pairs.is_some() => Err(CommandError::Usage("--pairs takes one folder of --images only".into())),
        folders => populations::run(&Chosen::new(&arguments.model, config)?, folders, arguments.plots.as_deref(), json),
    }
}

fn one_folder(arguments: &EvalArguments, images: &Path, config: &Path, json: bool) -> Result<u8, CommandError> {
    let chosen = Chosen::new(&arguments.model, config)?;
    let (collection, listed) = match &arguments.pairs {
        Some(file) => {
            let Pairs { collection, pairs, folds } = Pairs::read(file, images)?;
            (collection, Some((pairs, folds)))
        }
        None => (Collection::read(images)?, None),
    };
    let vision = chosen.load(chosen.precision)?.mirroring(chosen.mirror);
    let embedded = embed(&collection, &vision, &format!("embedding as {}", chosen.precision))?;
    let measured =
        measure(&collection, &embedded, listed).ok_or_else(|| CommandError::Collection(nothing_to_compare(images)))?;
    let groups = Groups::of(&chosen, vec![Group::new(images.to_owned(), &collection, &embedded)?])?;
    if let Some(folder) = &arguments.plots {
        draw(&measured, &groups, folder)?;
    }
    if json {
        let mut answer = as_json(&measured, &chosen);
        answer["folders"] = groups.as_json();
        print::emit_json(&answer);
    } else {
        print::emit(&format!("{}\n{groups}", as_text(&measured, &chosen)));
    }
    Ok(exit::DONE)
}

fn nothing_to_compare(images: &Path) -> collection::CollectionError {
    let problem = "faces were found on too few pictures: two of one person and one of another are the least".into();
    collection::CollectionError::TooFew { path: images.to_owned(), problem }
}

fn measure(
    collection: &Collection,
    embedded: &[Option<Vec<f32>>],
    listed: Option<(Vec<Pair>, usize)>,
) -> Option<Measured> {
    let (rows, person) = rows(collection, embedded);
    let all = statistics::all_pairs(rows.view(), &person)?;
    let fusion = |(enrolled, probe)| {
        statistics::fused(rows.view(), &person, enrolled, probe).map(|distances| ((enrolled, probe), distances))
    };
    let is_listed = listed.is_some();
    let (comparisons, folds) = match listed {
        Some((pairs, folds)) => (pairs.iter().map(|pair| compare(pair, embedded)).collect(), folds),
        None => (balanced(&all), FOLDS),
    };
    Some(Measured {
        pictures: collection.pictures.len(),
        people: collection.people.len(),
        undetected: undetected(collection, embedded),
        pairs: comparisons.len(),
        folds,
        listed: is_listed,
        accuracy: statistics::accuracy(&comparisons, folds),
        fusions: FUSIONS.into_iter().filter_map(fusion).collect(),
        scale: Scale::measure(&[(rows.view(), &person)], &all),
        all,
    })
}

fn compare(pair: &Pair, embedded: &[Option<Vec<f32>>]) -> Comparison {
    let distance = match (&embedded[pair.first], &embedded[pair.second]) {
        (Some(a), Some(b)) => statistics::distance(a.as_slice().into(), b.as_slice().into()),
        _ => FARTHEST,
    };
    Comparison { distance, genuine: pair.genuine }
}

/// As many impostor as genuine comparisons, drawn and mixed with a fixed seed: what accuracy is about.
fn balanced(all: &Distances) -> Vec<Comparison> {
    let mut random = Random::new(1);
    let count = all.genuine().len().min(all.impostor().len());
    let mut draw = |from: &[f32], genuine: bool| {
        let mut order: Vec<f32> = from.to_vec();
        random.shuffle(&mut order);
        order.truncate(count);
        order.into_iter().map(move |distance| Comparison { distance, genuine }).collect::<Vec<_>>()
    };
    let (genuine, impostor) = (draw(all.genuine(), true), draw(all.impostor(), false));
    genuine.into_iter().zip(impostor).flat_map(|(a, b)| [a, b]).collect()
}

fn points(distances: &Distances) -> Vec<(String, OperatingPoint)> {
    RATES.iter().filter_map(|rate| Some((rate_name(*rate), distances.at(*rate)?))).collect()
}

fn as_json(measured: &Measured, chosen: &Chosen) -> Value {
    let map = |distances: &Distances, value: &dyn Fn(&OperatingPoint) -> Value| {
        points(distances).iter().map(|(name, point)| (name.clone(), value(point))).collect::<BTreeMap<_, _>>()
    };
    let fusion = |((enrolled, probe), distances): &((usize, usize), Distances)| {
        let measured = json!({
            "tar": map(distances, &|point| json!(point.tar)),
            "threshold": map(distances, &|point| narrow(point.distance)),
            "genuine": distances.genuine().len(),
            "impostor": distances.impostor().len(),
        });
        (format!("{enrolled}x{probe}"), measured)
    };
    json!({
        "embedder": chosen.embedder,
        "precision": chosen.precision.to_string(),
        "mirror": chosen.mirror,
        "pictures": measured.pictures,
        "people": measured.people,
        "undetected": measured.undetected.len(),
        "pairs": measured.pairs,
        "folds": measured.folds,
        "accuracy": measured.accuracy.map(|(mean, _)| mean),
        "accuracy_se": measured.accuracy.map(|(_, error)| error),
        "genuine": measured.all.genuine().len(),
        "impostor": measured.all.impostor().len(),
        "auc": measured.all.auc(),
        "eer": measured.all.eer(),
        "tar": map(&measured.all, &|point| json!(point.tar)),
        "tar_interval": map(&measured.all, &|point| json!([point.interval.0, point.interval.1])),
        "threshold": map(&measured.all, &|point| narrow(point.distance)),
        "scale": {
            "max_spread": measured.scale.max_spread.map(narrow),
            "margin": measured.scale.margin.map(narrow),
            "same_face": measured.scale.same_face.map(narrow),
            "one_moment": measured.scale.one_moment.map(narrow),
        },
        "fusion": measured.fusions.iter().map(fusion).collect::<BTreeMap<_, _>>(),
    })
}

fn as_text(measured: &Measured, chosen: &Chosen) -> String {
    let Measured { pictures, people, undetected, pairs, folds, listed, accuracy, all, fusions, scale } = measured;
    let mirror = if chosen.mirror { ", mirror images averaged in" } else { "" };
    let mut text = format!(
        "embedder {} as {}{mirror}: {pictures} pictures of {people} people, {} of them without a face\n",
        chosen.embedder,
        chosen.precision,
        undetected.len()
    );
    undetected.iter().take(NAMED).for_each(|path| text += &format!("  no face: {path}\n"));
    if undetected.len() > NAMED {
        text += &format!("  and {} more\n", undetected.len() - NAMED);
    }
    let from = if *listed { "listed pairs" } else { "pairs, drawn of all, half of them of one person" };
    text += &match accuracy {
        Some((mean, error)) => format!("accuracy {mean:.4} ± {error:.4}: {pairs} {from}, in {folds} folds\n"),
        None => format!("accuracy: {pairs} {from} are too few for {folds} folds\n"),
    };
    text += &format!(
        "AUC {:.5}, EER {:.4}; these and all below: every picture with a face against every other\n\n",
        all.auc(),
        all.eer()
    );
    let mut table = vec![["TAR at FMR", "genuine", "impostor"].map(str::to_owned).to_vec()];
    table[0].extend(RATES.map(rate_name));
    let mut line = |name: &str, distances: &Distances, cell: &dyn Fn(OperatingPoint) -> String| {
        let mut row =
            vec![name.to_owned(), distances.genuine().len().to_string(), distances.impostor().len().to_string()];
        row.extend(RATES.map(|rate| distances.at(rate).map_or_else(|| "-".into(), cell)));
        table.push(row);
    };
    line("every pair", all, &|point| format!("{:.4}", point.tar));
    line("  95 % interval", all, &|point| format!("{:.3}-{:.3}", point.interval.0, point.interval.1));
    line("  nearer than", all, &|point| format!("{:.4}", point.distance));
    for ((enrolled, probe), distances) in fusions {
        line(&format!("{enrolled} enrolled, {probe} seen"), distances, &|point| format!("{:.4}", point.tar));
        line("  nearer than", distances, &|point| format!("{:.4}", point.distance));
    }
    text += &print::table(&table);
    text + &format!("\nfor the manifest:\n{scale}and its populations: facelatch eval --people DIR --table\n")
}

fn draw(measured: &Measured, groups: &Groups, folder: &Path) -> Result<(), CommandError> {
    let mut samples = vec![("every pair".to_owned(), &measured.all)];
    // One enrolled and one seen is nearly the same as every pair.
    let more = measured.fusions.iter().filter(|((enrolled, probe), _)| enrolled * probe > 1);
    samples
        .extend(more.map(|((enrolled, probe), distances)| (format!("{enrolled} enrolled, {probe} seen"), distances)));
    let named: Vec<(&str, &Distances)> = samples.iter().map(|(name, distances)| (name.as_str(), *distances)).collect();
    let histogram = plot::histogram(&measured.all, measured.all.threshold(DRAWN));
    write_pictures(folder, [("roc.svg", plot::roc(&named)), ("distances.svg", histogram), groups.picture()])
}
