"""What a recogniser says, for people: answers that print and draw themselves, timelines, labels burnt into a video."""
