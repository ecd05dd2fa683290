//! What to better about people who are enrolled: pictures of one moment, people who lie close.

use std::collections::BTreeMap;

use crate::{
    calibrate,
    gallery::{Gallery, PersonId},
    policy::Limits,
    scale::Scale,
    store::{EnrolledPicture, Person},
    vision::{embed::Embedding, model::ModelId},
};

/// What there is to say about each person; nothing about most.
pub(super) type Advice = BTreeMap<PersonId, Vec<String>>;

/// `name` says what a person is called.
pub(super) fn advise(
    people: &[Person],
    gallery: &Gallery,
    limits: Limits,
    scale: &Scale,
    name: impl Fn(PersonId) -> String,
) -> Advice {
    let mut advice = Advice::new();
    for person in people {
        let model = person.pictures.first().map(|picture| picture.model);
        let moment = model.and_then(|model| one_moment(&person.pictures, model, scale));
        advice.entry(person.id).or_default().extend(moment);
    }
    for (one, other, distance) in calibrate::closer_than(gallery, limits, limits.single + scale.margin) {
        for (person, neighbour) in [(one, other), (other, one)] {
            advice.entry(person).or_default().push(format!(
                "at risk: {} is only {distance:.2} apart, a match may be {:.2}; children under 13 and siblings are not \
                 told apart reliably",
                name(neighbour),
                limits.single
            ));
        }
    }
    advice.retain(|_, of_person| !of_person.is_empty());
    advice
}

/// Pictures that are as near to each other on average as those of one moment are.
fn one_moment(pictures: &[EnrolledPicture], model: ModelId, scale: &Scale) -> Option<String> {
    let limit = scale.one_moment.filter(|_| pictures.len() > 1)?;
    let embeddings: Option<Vec<Embedding>> = pictures
        .iter()
        .map(|picture| Embedding::new(picture.embedding.clone(), picture.model).ok().filter(|e| e.model() == model))
        .collect();
    let embeddings = embeddings?;
    let (mut sum, mut pairs) = (0.0, 0);
    for (i, one) in embeddings.iter().enumerate() {
        for other in &embeddings[..i] {
            sum += one.distance(other)?;
            pairs += 1;
        }
    }
    let advice = || format!("{} pictures of one moment; pictures of other days help more", pictures.len());
    (sum / pairs as f32 <= limit).then(advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gallery::{Template, TemplateFusion};

    const MODEL: ModelId = ModelId([1; 16]);
    const LIMITS: Limits = Limits { single: 0.5, shrink: 0.0 };

    fn scale(one_moment: Option<f32>) -> Scale {
        Scale { max_spread: 0.6, margin: 0.2, same_face: 0.5, one_moment, missing: Vec::new() }
    }

    /// People with pictures at these angles on a circle, and what is advised about each.
    fn advised(people: &[&[f32]], scale: &Scale) -> Vec<String> {
        let embedding = |angle: f32| Embedding::new(vec![angle.cos(), angle.sin()], MODEL).unwrap();
        let picture = |angle: &f32| EnrolledPicture {
            path: String::new(),
            sha256: [0; 32],
            model: MODEL,
            embedding: embedding(*angle).values().to_vec(),
            face_px: 100,
            enrolled_at_ms: 0,
        };
        let person = |(i, angles): (usize, &&[f32])| Person {
            id: PersonId(i as u32),
            name: String::new(),
            pictures: angles.iter().map(picture).collect(),
        };
        let known: Vec<Person> = people.iter().enumerate().map(person).collect();
        let template = |(i, angle): (usize, f32)| Template { person: PersonId(i as u32), embedding: embedding(angle) };
        let angles = people.iter().enumerate().flat_map(|(i, angles)| angles.iter().map(move |angle| (i, *angle)));
        let gallery = Gallery::new(MODEL, TemplateFusion::Mean, &angles.map(template).collect::<Vec<_>>());
        let advice = advise(&known, &gallery, LIMITS, scale, |person| format!("P{}", person.0));
        (0..people.len())
            .map(|i| advice.get(&PersonId(i as u32)).map_or(String::new(), |said| said.join(" | ")))
            .collect()
    }

    #[test]
    fn several_pictures_of_one_moment_are_named_and_one_is_not() {
        let said = advised(&[&[0.0, 0.05, 0.1], &[1.5, 1.9], &[3.0]], &scale(Some(0.2)));
        assert_eq!(said, ["3 pictures of one moment; pictures of other days help more", "", ""]);
        assert_eq!(advised(&[&[0.0, 0.05, 0.1]], &scale(None)), [""], "not measured: nothing is claimed");
    }

    #[test]
    fn people_who_lie_close_are_named_as_at_risk() {
        let said = advised(&[&[0.0], &[0.65], &[2.0]], &scale(None));
        assert!(said[0].contains("at risk: P1 is only 0.64 apart") && said[0].contains("under 13"), "{said:?}");
        assert!(said[1].contains("at risk: P0") && said[2].is_empty(), "{said:?}");
    }
}
