#!/bin/sh
# Stands in for the keeper in a unit test: its parent, the test's own program, serves as one that dies.
name=execution::keeper::serve::tests::is_killed_before_it_answers
export KEEPER_FOLDER="$2"
exec "/proc/$PPID/exe" --exact "$name" --ignored --nocapture
