//! A room that imports a higher one fails here.

use std::collections::BTreeMap;
use tidemark_checks::{BESIDE, ROOMS, imports, on_kubernetes, violations};

#[test]
fn no_room_imports_a_higher_one() {
    let imports = imports().expect("the manifests are readable");
    assert_eq!(violations(&imports), Vec::<String>::new());
    assert!(
        imports["server"].contains(&"log".to_string()),
        "the manifests are read as they are"
    );
}

#[test]
fn only_rooms_beside_the_broker_know_kubernetes() {
    let found = on_kubernetes().expect("the manifests are readable");
    assert_eq!(found, BESIDE);
}

#[test]
fn an_upward_import_is_found() {
    let upward = BTreeMap::from([("log".to_string(), vec!["server".to_string()])]);
    assert_eq!(violations(&upward), vec!["log must not import server"]);
    let unknown = BTreeMap::from([("attic".to_string(), vec![])]);
    assert_eq!(violations(&unknown).len(), 1);
}

#[test]
fn the_table_itself_only_looks_down() {
    for (at, (room, allowed)) in ROOMS.iter().enumerate() {
        for other in *allowed {
            assert!(
                ROOMS[..at].iter().any(|(name, _)| name == other),
                "{room} may import {other}, which is not below it"
            );
        }
    }
}
