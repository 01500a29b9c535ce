use super::{FOREVER, ids, refused};
use crate::world::World;

pub async fn end_and_keep_their_order(world: &World) {
    let path = "/projects/shop/branches";
    for number in 0..5 {
        world.branch(&format!("listed-{number}"), FOREVER).await;
    }
    let whole = ids(&world.get(path).await, "branches");
    assert_eq!(ids(&world.get(path).await, "branches"), whole);
    let (mut seen, mut token) = (Vec::new(), String::new());
    for _ in 0..=whole.len() {
        let answer = world.get(&format!("{path}?page_size=2&page_token={token}")).await;
        seen.extend(ids(&answer, "branches"));
        // What comes and goes between two pages moves no other item.
        if seen.len() == 2 {
            world.branch("between-pages", FOREVER).await;
            world.delete(&format!("{path}/{}", whole.last().unwrap())).await;
        }
        match answer.body.get("next_page_token") {
            Some(next) => token = next.as_str().unwrap().to_owned(),
            None => break,
        }
    }
    let mut wanted = whole.clone();
    *wanted.last_mut().unwrap() = "between-pages".to_owned();
    assert_eq!(seen, wanted);

    let first = world.get(&format!("{path}?page_size=2")).await;
    let token = first.body["next_page_token"].as_str().unwrap();
    assert_eq!(world.get(&format!("{path}?page_size=3&page_token={token}")).await.status, 200);
    for other in [
        format!("/projects?page_token={token}"),
        format!("{path}?show_deleted=true&page_token={token}"),
        format!("{path}/production/endpoints?page_token={token}"),
        format!("{path}?page_token=x"),
        format!("{path}?page_size=-1"),
        format!("{path}?page_size=two"),
        format!("{path}?show_deleted=perhaps"),
    ] {
        refused(&world.get(&other).await, 400, "INVALID_PARAMETER_VALUE", "");
    }
    let all = world.get(&format!("{path}?page_size=0&page_token=")).await;
    assert_eq!(ids(&all, "branches"), wanted);
    for (missing, noun) in [
        ("/projects/none/branches", "project"),
        ("/projects/none/branches/none/endpoints", "project"),
        ("/projects/shop/branches/none/endpoints", "branch"),
        ("/projects/shop/branches/production/endpoints/none/compute-instances", "endpoint"),
    ] {
        refused(&world.get(missing).await, 404, "NOT_FOUND", &format!("{noun} id not found"));
    }
}
