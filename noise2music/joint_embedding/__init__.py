"""Music and text in one space: a clip and a sentence that describes it have a high cosine."""
